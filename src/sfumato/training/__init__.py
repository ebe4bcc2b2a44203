"""Training: the loop, the average of the weights, checkpoints, the device, and those who watch."""
