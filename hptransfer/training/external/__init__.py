"""Trials that a function or a command of the user's own trains, each in processes of its own."""
