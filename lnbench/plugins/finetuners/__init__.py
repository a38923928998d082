"""The built-in fine-tuners: one file each, found without a list."""
