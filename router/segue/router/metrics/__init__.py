"""What the router counts and exports: names, an observer that counts, readings of the fleet, the last minute."""
