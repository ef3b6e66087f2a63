"""The trainer: one config as an ordinary torch module, alone or on several devices."""
