"""What one GPU does: ratios against baselines in the same run, on random weights in the shape of Llama 3.1 8B."""
