"""Segue's contracts: the ``.proto`` files and the stubs generated from them.

``make proto`` regenerates the stubs; ``make lint`` proves that they are up to date.
"""
