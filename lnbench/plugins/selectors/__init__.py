"""The built-in selectors: one file each, found without a list."""
