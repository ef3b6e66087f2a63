"""How good samples are: Fréchet distance, precision and recall in our classifiers' features."""
