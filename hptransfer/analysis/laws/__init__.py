"""Laws over width: of the optimum, of the loss, and of the regret of a transferred value."""
