"""The documentation. Its reference is written from the code by ``docs.generator``."""
