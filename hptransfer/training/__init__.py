"""Training along the trial axis: the pack, its optimizer, its evaluation and the one loop."""
