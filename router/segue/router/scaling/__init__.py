"""What others scale the pools by, as this router sees it."""
