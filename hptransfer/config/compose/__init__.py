"""From YAML files and command-line overrides to records; the only user of Hydra."""
