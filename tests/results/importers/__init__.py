"""Tests of tables of other programs."""
