"""How many workers each pool should have. Decisions only: readings and a clock in, counts and reasons out."""
