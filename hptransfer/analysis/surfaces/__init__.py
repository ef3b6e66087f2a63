"""Several hyperparameters at once: the loss as a quadratic surface in their logarithms."""
