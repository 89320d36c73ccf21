"""A load test as one HTML file with its plots in it."""
