"""The trainer of one config as an ordinary torch module, on one device or several."""
