"""lnbench's own plugins, registered through the same hooks as anyone's: every module in these folders is one plugin."""
