"""The answer of a sweep: estimates of every arm, transferred value, verdict and warnings."""
