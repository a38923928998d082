"""The built-in plugins, registered like anyone's: through the hooks."""
