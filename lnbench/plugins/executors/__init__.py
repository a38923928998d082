"""The built-in executors: one file each, found without a list."""
