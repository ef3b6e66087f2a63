"""From a question to rows: which trials a sweep wants, what they cost, and running them."""
