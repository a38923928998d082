"""What the hub serves, through its real client: models, datasets, tasks, adapters; faults; and without a network."""
