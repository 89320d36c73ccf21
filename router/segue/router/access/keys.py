"""API keys as the router knows them: by name and hash, one a line.

    # name  sha256:HEX  [max_concurrent_requests=N]  [requests_per_minute=N]
    alice sha256:9f86d0...0a08 max_concurrent_requests=8
    batch sha256:60303a...4c1f requests_per_minute=120
    # name  sha256:HEX  operations
    prometheus sha256:1b4f0e...c014 operations

A plain SHA-256 is right here, where it would be wrong for passwords: a key is 256 random bits (``segue keys new``),
which no amount of hashing per second finds, and every request pays for the hash. Pure: text in, decisions out.
"""

from __future__ import annotations

import difflib
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, fields

from segue.base.errors import SettingsError, Unauthenticated

KEY_PREFIX = "sk-segue-"
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_MAX_KEY_CHARS = 512
_BUCKET_BYTES = 4
_OPERATIONS = "operations"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """0: no limit."""

    max_concurrent_requests: int = 0
    requests_per_minute: int = 0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One line. What it was made from is known to its holder alone."""

    name: str
    sha256: bytes
    limits: KeyLimits = KeyLimits()
    operations: bool = False  # For metrics and the fleet, and for nothing else.

    def line(self) -> str:
        limits = (f"{one.name}={value}" for one in fields(KeyLimits) if (value := getattr(self.limits, one.name)))
        operations = (_OPERATIONS,) if self.operations else ()
        return " ".join((self.name, f"sha256:{self.sha256.hex()}", *limits, *operations))


def mint(name: str, limits: KeyLimits, *, operations: bool = False) -> tuple[str, ApiKey]:
    """A new key, and what the router is to know of it. Raises SettingsError for a name that can't be written."""
    if not _NAME.fullmatch(name):
        raise SettingsError(f"key name {name!r} must be 1 to 64 letters, digits or ._@-")
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    return secret, ApiKey(name, _digest(secret), limits, operations)


class KeyRing:
    """The keys that are accepted now."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._buckets: dict[bytes, list[ApiKey]] = {}
        self._size = 0
        for key in keys:
            self._buckets.setdefault(key.sha256[:_BUCKET_BYTES], []).append(key)
            self._size += 1

    def __len__(self) -> int:
        return self._size

    def authenticate(self, authorization: str | None) -> ApiKey:
        """The key behind an ``Authorization`` header or its gRPC equal.

        The digest is compared in constant time. Choosing the candidates by its first bytes tells a caller nothing:
        digests of guesses are not his to steer.

        Raises:
            Unauthenticated: there is none, or it isn't known. The message never holds what was sent.
        """
        if authorization is None:
            raise Unauthenticated("an API key is needed; send it as 'Authorization: Bearer KEY'", code="no_api_key")
        scheme, _, secret = authorization.strip().partition(" ")
        secret = secret.strip()
        if scheme.lower() != "bearer" or not secret:
            raise Unauthenticated("the Authorization header must be 'Bearer KEY'")
        if len(secret) <= _MAX_KEY_CHARS:
            digest = _digest(secret)
            for key in self._buckets.get(digest[:_BUCKET_BYTES], ()):
                if hmac.compare_digest(key.sha256, digest):
                    return key
        raise Unauthenticated("the API key is not known here; check it, or have one issued")


def parse_keys(text: str, source: str) -> list[ApiKey]:
    """The keys in a file or variable; ``source`` names it in errors.

    Raises:
        SettingsError: a line that isn't as above, or a name or hash that comes twice.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{source}, line {number}"
        key = _parse_line(words, where)
        if key.name in keys:
            raise SettingsError(f"{where}: the name {key.name!r} is there twice; give each key its own")
        if any(key.sha256 == other.sha256 for other in keys.values()):
            raise SettingsError(f"{where}: {key.name!r} has the same hash as an earlier key; issue a new one")
        keys[key.name] = key
    return list(keys.values())


def _parse_line(words: list[str], where: str) -> ApiKey:
    # Words are not quoted in errors: someone may have put a key itself where its hash belongs.
    name = words[0]
    if name.startswith("sk-") or KEY_PREFIX in name or not _NAME.fullmatch(name):
        raise SettingsError(f"{where}: begins with no name; write NAME sha256:HEX, as 'segue keys new' prints it")
    if len(words) < 2 or (digest := _HASH.fullmatch(words[1])) is None:
        raise SettingsError(f"{where}: {name!r} has no hash of the form sha256:HEX with 64 hex digits")
    limits: dict[str, int] = {}
    known = [field.name for field in fields(KeyLimits)]
    options = words[2:]
    if operations := options == [_OPERATIONS]:
        options = []
    for word in options:
        option, _, value = word.partition("=")
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            hint = f"{_OPERATIONS!r} stands alone: such a key makes no requests" if word == _OPERATIONS else hint
            raise SettingsError(f"{where}: {name!r} has a limit that is not known; {hint}")
        if not re.fullmatch(r"[0-9]{1,9}", value) or option in limits:
            raise SettingsError(f"{where}: {name!r} needs {option} once, as a whole number")
        limits[option] = int(value)
    return ApiKey(name, bytes.fromhex(digest[1]), KeyLimits(**limits), operations)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
