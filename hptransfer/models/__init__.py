"""Models (`families`), how they scale with width (`parametrization`), and weight files."""
