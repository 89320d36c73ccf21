"""Requests that wait for a worker: in what order they start, and when there is room for one. No I/O."""
