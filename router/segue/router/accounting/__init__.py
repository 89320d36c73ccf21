"""What requests cost, and the log of it."""
