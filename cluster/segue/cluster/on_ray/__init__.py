"""The pools on a Ray cluster: every process in a detached actor, which Ray places, restarts and outlives the driver."""
