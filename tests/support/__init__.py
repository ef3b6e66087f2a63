"""What several tests share: invented rows, planted sweeps, small models and folders."""
