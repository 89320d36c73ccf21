"""Sends requests when they are due, in one process or several."""
