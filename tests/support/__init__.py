"""What several tests need: tiny models, sample data, and runs of commands."""
