"""What a worker counts and exports."""
