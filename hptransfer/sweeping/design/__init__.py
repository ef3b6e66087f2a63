"""Which trials a sweep wants: grids, sequences, and points chosen in rounds."""
