"""From rows to an answer: basins, laws, regret, verdict. Needs numpy and pandas only."""
