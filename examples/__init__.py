"""Models for `model=custom`: write your own like them."""
