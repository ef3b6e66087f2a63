"""Everything in `results/NAME/`: paths, ledger of finished trials, sweep file, imports, exports."""
