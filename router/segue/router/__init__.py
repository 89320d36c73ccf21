"""The front door: takes requests, plans them over the two pools, and streams the answers back."""
