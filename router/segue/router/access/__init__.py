"""API keys: who may ask, and how much of each at once. The decisions are in ``keys`` and ``usage``."""
