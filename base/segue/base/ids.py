"""Ids that Segue mints. None is ever taken from a client."""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    """One request of one client: ``req-`` and 96 random bits."""
    return "req-" + secrets.token_hex(12)


def new_ticket_id() -> str:
    """One offer of a KV cache: ``kv-`` and 128 random bits, so that it can't be guessed."""
    return "kv-" + secrets.token_hex(16)


def new_epoch() -> str:
    """One life of one process: 64 random bits."""
    return secrets.token_hex(8)
