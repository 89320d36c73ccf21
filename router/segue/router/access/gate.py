"""The gate in front of the public API: keys from a file that is read again when it changes, and their limits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from segue.base.errors import Forbidden, SettingsError, Unauthenticated
from segue.base.logging import get_logger
from segue.router.access.keys import ApiKey, KeyRing, parse_keys
from segue.router.access.usage import Usage

log = get_logger("access")

_LOOK_INTERVAL_S = 1.0
_TELL_INTERVAL_S = 1.0

Audience = Literal["clients", "operators", "everyone"]


class AccessGate:
    """Everything here runs on the router's event loop."""

    def __init__(self, text: str, file: Path | None, now_s: Callable[[], float] = time.monotonic) -> None:
        """Keys from ``text`` (the environment, where ``;`` ends a line too) and from ``file``. Raises SettingsError."""
        self._text = text
        self._file = file
        self._now_s = now_s
        self._stamp = self._stat()
        self._ring = self._read()
        self._looked_at_s = now_s()
        self._usage = Usage()
        self._refusals = 0
        self._refusal_told_s = float("-inf")

    def authenticate(self, authorization: str | None, wanted: Audience = "clients") -> ApiKey:
        """The caller's key. Raises Unauthenticated, and Forbidden for a key that is for something else."""
        self._reload_if_changed()
        key = self._ring.authenticate(authorization)
        if wanted == "clients" and key.operations:
            raise Forbidden(f"API key {key.name!r} is for operations; this needs a client's key")
        if wanted == "operators" and not key.operations:
            raise Forbidden(f"API key {key.name!r} is a client's; this needs one made by segue keys new --operations")
        return key

    def admit(self, key: ApiKey) -> Callable[[], None]:
        """Count a request of this key; call what is returned when it has ended.

        Raises:
            Overloaded: the key's limits are reached.
        """
        self._usage.begin(key, self._now_s())
        return lambda: self._usage.end(key)

    def log_refusal(self, error: Unauthenticated, surface: str, peer: str) -> None:
        """Tell of a caller without a valid key, at most once a second; what he sent is not told."""
        now_s = self._now_s()
        self._refusals += 1
        if now_s - self._refusal_told_s >= _TELL_INTERVAL_S:
            log.warning("caller_refused", surface=surface, peer=peer, code=error.code, refusals=self._refusals)
            self._refusals, self._refusal_told_s = 0, now_s

    def _reload_if_changed(self) -> None:
        now_s = self._now_s()
        if self._file is None or now_s - self._looked_at_s < _LOOK_INTERVAL_S:
            return
        self._looked_at_s = now_s
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._ring = self._read()
        except SettingsError as error:  # An edit that went wrong must not lock everybody out.
            log.error("api_keys_not_reloaded", error=str(error))
            return
        log.info("api_keys_reloaded", file=str(self._file), keys=len(self._ring))

    def _stat(self) -> tuple[int, int, int] | None:
        if self._file is None:
            return None
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> KeyRing:
        sources = [(self._text.replace(";", "\n"), "SEGUE_API_KEYS")] if self._text else []
        if self._file is not None:
            try:
                sources.append((self._file.read_text(), str(self._file)))
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(f"can't read the API keys in {self._file}: {error}") from None
        keys = [key for text, source in sources for key in parse_keys(text, source)]
        if len({key.name for key in keys}) < len(keys):
            raise SettingsError(f"a key name is both in SEGUE_API_KEYS and in {self._file}; give each key its own")
        return KeyRing(keys)


def make_gate(text: str, file: Path | None) -> AccessGate | None:
    """None when neither is given: the API is open to everyone who reaches it. Raises SettingsError."""
    if not text and file is None:
        return None
    return AccessGate(text, file)
