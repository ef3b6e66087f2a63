"""What the package asks of the machine: whole-file writes, locks, signals, storage, safe YAML."""
