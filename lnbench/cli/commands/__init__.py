"""The commands: ``lnbench NAME`` is ``NAME.py``, whose ``app`` is a typer app; nothing else lists them."""
