"""How fast workers and links are, from what was seen of them. Clock passed in; no I/O."""
