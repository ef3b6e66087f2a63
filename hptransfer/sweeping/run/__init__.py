"""Running what is missing of a sweep."""
