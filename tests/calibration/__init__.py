"""What the statistics promise, on simulated runs in which nothing differs, through the code that makes tables."""
