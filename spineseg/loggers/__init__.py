"""Where a run's values go: its own `log.csv`, and Weights & Biases."""
