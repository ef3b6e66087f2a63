"""From an answer to a target: its config, exports for other trainers, and the target's runs."""
