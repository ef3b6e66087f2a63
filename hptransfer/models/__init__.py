"""Model families, their scaling with width and depth (`parametrization`), and weight files."""
