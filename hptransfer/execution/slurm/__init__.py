"""Execution by jobs of SLURM's own queue, one for each pack, without Ray."""
