"""The built-in architectures: one file each, found without a list."""
