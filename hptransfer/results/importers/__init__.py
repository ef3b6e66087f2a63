"""Rows that another program wrote: tables of trials, read into a results folder of their own."""
