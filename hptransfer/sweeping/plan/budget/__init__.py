"""What to sweep for a budget: designs, what they cost, and the regret that they would leave."""
