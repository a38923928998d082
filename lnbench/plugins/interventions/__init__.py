"""The built-in interventions: one file each, found without a list."""
