"""``python -m lnbench.cli``."""

from lnbench.cli import main

main()
