"""What must be seen on a GPU: run by ``make gpu``, which rehearses it on the CPU with ``DEVICE=cpu``."""
