"""Pools of workers: starting, watching and stopping them. Here on local processes."""
