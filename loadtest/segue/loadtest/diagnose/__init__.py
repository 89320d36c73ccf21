"""What holds a cluster back, from its metrics or from a load test."""
