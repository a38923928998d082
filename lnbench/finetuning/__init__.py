"""Fine-tuning restricted to neurons: which neurons, the adapter, its training, and what the training changed."""
