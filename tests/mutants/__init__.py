"""A mutation check of the tests that guard numbers: small faults, each in a copy of the code, that tests must see."""
