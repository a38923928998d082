"""The built-in measures: one file each, found without a list."""
