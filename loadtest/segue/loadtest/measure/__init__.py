"""What happened to each request, and what all of them say. Pure."""
