"""The trials that a sweep asks for: grids, sequences, and points chosen in rounds."""
