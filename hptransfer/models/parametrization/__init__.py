"""µP and the standard parametrization: factors of every parameter, models, optimizer groups."""
