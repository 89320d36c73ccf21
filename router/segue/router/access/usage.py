"""How much each key uses now, against its limits. No I/O; the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from segue.base.errors import Overloaded
from segue.router.access.keys import ApiKey

_CONCURRENCY_RETRY_S = 1.0


@dataclass(slots=True)
class _Use:
    running_requests: int = 0
    tokens: float = 0.0  # What is left of this minute's requests: a bucket that refills steadily.
    filled_at_s: float | None = None


class Usage:
    """Counts by key name, so that a key whose line changes keeps what it has running."""

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def running_requests(self, name: str) -> int:
        use = self._uses.get(name)
        return 0 if use is None else use.running_requests

    def begin(self, key: ApiKey, now_s: float) -> None:
        """Count one request of this key as begun; to be ended by :meth:`end`.

        Raises:
            Overloaded: a limit of the key is reached. Nothing is counted then.
        """
        use = self._uses.get(key.name) or _Use()
        limits = key.limits
        if limits.max_concurrent_requests and use.running_requests >= limits.max_concurrent_requests:
            raise Overloaded(
                f"API key {key.name!r} has {use.running_requests} requests running, its limit is "
                f"{limits.max_concurrent_requests}; wait for one to end",
                retry_after_s=_CONCURRENCY_RETRY_S,
            )
        if limits.requests_per_minute:
            self._refill(use, limits.requests_per_minute, now_s)
            if use.tokens < 1:
                raise Overloaded(
                    f"API key {key.name!r} is over its limit of {limits.requests_per_minute} requests a minute",
                    retry_after_s=(1 - use.tokens) * 60 / limits.requests_per_minute,
                )
            use.tokens -= 1
        use.running_requests += 1
        self._uses[key.name] = use

    def end(self, key: ApiKey) -> None:
        self._uses[key.name].running_requests -= 1

    @staticmethod
    def _refill(use: _Use, per_minute: int, now_s: float) -> None:
        if use.filled_at_s is None:
            use.tokens = per_minute
        else:
            use.tokens = min(per_minute, use.tokens + (now_s - use.filled_at_s) * per_minute / 60)
        use.filled_at_s = now_s

    def forget_idle(self, names: set[str]) -> None:
        """Drop what is known of keys that are no more, once nothing of theirs runs."""
        self._uses = {name: use for name, use in self._uses.items() if name in names or use.running_requests}
