"""One width at a time: the loss over log2 of a hyperparameter, its minimum and its noise."""
