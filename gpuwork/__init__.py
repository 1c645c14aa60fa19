"""Fine-tuning of one cell of the grid; runs on the compute node."""
