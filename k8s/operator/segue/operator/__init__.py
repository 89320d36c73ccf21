"""The Kubernetes operator: keeps what a PDCluster describes, and lets workers leave empty when a pool shrinks."""
