"""Tests of results folders and ledgers."""
