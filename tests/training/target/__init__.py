"""Tests of the target trainer."""
