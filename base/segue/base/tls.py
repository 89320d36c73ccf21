"""Certificates from files, for gRPC and HTTP, read again when the files change.

Only paths travel through settings; a key is read where it is used and never logged. A change is noticed at the next
handshake (servers) or the next dial (clients), by the files' modification times. A rotation that is half done, or
files that can't be read, leave what was read before in use, with a warning.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

from segue.base.errors import SettingsError
from segue.base.identity import Identity, identities_of
from segue.base.logging import get_logger

log = get_logger("tls")

_SOON_FRACTION = 0.2  # Warn when less than this part of a certificate's life is left.


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files: a certificate (with its chain) and its key, and the CAs whose certificates are accepted.

    Listeners need the certificate; with ``ca`` they accept only callers whose certificate it has signed. Callers
    without ``ca`` trust the CAs of the system, without a certificate they show none.
    """

    cert: str = ""
    key: str = ""
    ca: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            missing = "key" if self.cert else "certificate"
            raise SettingsError(f"TLS needs a certificate and its key; the {missing} is missing")


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold, checked to belong together. Times are Unix seconds."""

    cert: bytes | None
    key: bytes | None = field(repr=False)
    ca: bytes | None
    identities: tuple[Identity, ...] = ()
    not_before_s: float = 0.0
    not_after_s: float = float("inf")
    version: int = 0  # Counts the changes.


class TlsSource:
    """The current content of the files. Methods may be called from any thread."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises SettingsError if the files can't be used."""
        self.files = files
        self._lock = threading.Lock()
        self._stamp = _stamp(files)
        self._pem = _read(files, version=0)
        self._told_s = 0.0
        self._tell_expiry()

    def current(self) -> Pem:
        """What the files hold now; if they can't be used now, what they held before."""
        with self._lock:
            stamp = _stamp(self.files)
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload()
            self._tell_expiry()
            return self._pem

    def _reload(self) -> None:
        try:
            pem = _read(self.files, self._pem.version + 1)
        except SettingsError as error:
            log.warning("certificate_not_reloaded", cert=self.files.cert, error=str(error))
            return
        self._pem, self._told_s = pem, 0.0
        log.info("certificate_reloaded", cert=self.files.cert, expires_in_h=_hours_left(pem))

    def _tell_expiry(self) -> None:
        """At most once an hour: an expired certificate is refused by every peer, and only they would know why."""
        now_s, pem = time.time(), self._pem
        if pem.cert is None or now_s - self._told_s < 3600:
            return
        if now_s > pem.not_after_s:
            log.error("certificate_expired", cert=self.files.cert, expired_h_ago=-_hours_left(pem))
        elif pem.not_after_s - now_s < _SOON_FRACTION * (pem.not_after_s - pem.not_before_s):
            log.warning("certificate_expires_soon", cert=self.files.cert, expires_in_h=_hours_left(pem))
        else:
            return
        self._told_s = now_s


def load_tls(files: TlsFiles | None) -> TlsSource | None:
    """None stays None: plain text."""
    return None if files is None else TlsSource(files)


def load_mesh(files: TlsFiles | None) -> TlsSource | None:
    """For links on which both ends show a certificate. Raises SettingsError if the files aren't enough for that."""
    if files is not None and not (files.cert and files.ca):
        raise SettingsError("the mesh needs a certificate, its key and the CA, on both ends of each link")
    return load_tls(files)


def check_own_identity(source: TlsSource, kind: str, name: str) -> None:
    """Raises SettingsError unless our own certificate names us: every peer would refuse us, each in its own words.

    A ``name`` of "*" is any.
    """
    identities = source.current().identities
    if not any(identity.covers(kind, identity.name if name == "*" else name) for identity in identities):
        seen = ", ".join(map(str, identities)) or "no segue:// name"
        raise SettingsError(
            f"the certificate {source.files.cert} is for {seen}, this process is segue://{kind}/{name}; "
            "give it its own certificate, or the name that is in it"
        )


def _stamp(files: TlsFiles) -> tuple[tuple[int, int, int] | None, ...]:
    return tuple(_stat(path) for path in (files.cert, files.key, files.ca))


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _hours_left(pem: Pem) -> float:
    return round((pem.not_after_s - time.time()) / 3600, 1)


def _read(files: TlsFiles, version: int) -> Pem:
    ca = _bytes_of(files.ca) if files.ca else None
    if not files.cert:
        return Pem(None, None, ca, version=version)
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization as s

    cert, key = _bytes_of(files.cert), _bytes_of(files.key)
    try:
        leaf = x509.load_pem_x509_certificate(cert)
    except ValueError as error:
        raise SettingsError(f"{files.cert} holds no certificate in PEM form: {error}") from None
    try:
        own = s.load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError):  # Not the parser's words: they may quote what they parsed.
        raise SettingsError(f"{files.key} holds no private key in PEM form without a password") from None
    form = s.Encoding.DER, s.PublicFormat.SubjectPublicKeyInfo
    if leaf.public_key().public_bytes(*form) != own.public_bytes(*form):
        raise SettingsError(f"{files.key} is not the key of the certificate {files.cert}; give both of one issue")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    return Pem(
        cert,
        key,
        ca,
        identities_of(uris),
        leaf.not_valid_before_utc.timestamp(),
        leaf.not_valid_after_utc.timestamp(),
        version,
    )


def _bytes_of(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise SettingsError(f"can't read {path}: {error.strerror}") from None
