"""The report that lives: pages of results folders, served on this machine while sweeps run."""
