"""Answers, plans and rules as text for a terminal."""
