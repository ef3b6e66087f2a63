"""Tests of the documentation: its pages, their commands and the site they become."""
