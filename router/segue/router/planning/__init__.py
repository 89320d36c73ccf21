"""Which workers carry a request, and what that would cost. Pure functions over a snapshot of the fleet."""
