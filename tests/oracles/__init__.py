"""Tests of the mup package and its bugs, held against our factors."""
