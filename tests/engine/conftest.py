from __future__ import annotations

from hypothesis import settings

# Examples share their cores with other tests: how long one takes says nothing.
settings.register_profile("shared cores", deadline=None)
settings.load_profile("shared cores")
