"""How the optimum moves with depth, batch size and training steps."""
