"""Listening where others can reach it, in plain text, is said aloud or not done."""

from __future__ import annotations

import ipaddress

from segue.base.errors import SettingsError
from segue.base.logging import get_logger

log = get_logger("tls")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on ``host``. A name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, what: str, *, tls: bool, tls_option: str, insecure: bool) -> None:
    """For a listener at ``host``; ``what`` it serves.

    Raises:
        SettingsError: others could read and forge what goes over it, and nobody has said that this is meant.
    """
    if tls or is_loopback(host):
        return
    if not insecure:
        raise SettingsError(
            f"{what} would listen on {host} in plain text, open to whoever reaches it; give {tls_option}, or say "
            "--insecure if the network is closed to others or encrypts by itself"
        )
    log.warning("plain_text_listener", host=host, serves=what)
