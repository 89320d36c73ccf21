"""Certificates for development: a CA and what it signs, as files in one folder.

For production take a CA that keeps its key elsewhere (cert-manager, SPIRE, Vault) and the same names in the
certificates; ``docs/security.md`` lists them.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from segue.base.errors import SettingsError
from segue.base.identity import ROUTER_DNS, WORKER_KINDS, Identity, parse_identity, worker_dns
from segue.base.tls import TlsFiles
from segue.cluster.cert_files import CA_NAME, files_of

CA_DAYS = 30.0
_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Holder:
    """Whom a certificate is for, by the file name it gets, and the host names and addresses it is reached by."""

    file: str
    identity: Identity
    hosts: tuple[str, ...] = ()
    other: Identity | None = None  # A flex worker's second role.


def holders(
    workers: Mapping[str, int],
    clients: Sequence[str],
    hosts: Sequence[str],
    operators: Sequence[str] = ("operator",),
) -> list[Holder]:
    """Those of a local cluster: a router, so many workers of each kind (``prefill``, ``decode``, ``flex``), named as
    ``segue up`` names them, and clients."""
    return [
        Holder("router", Identity("router", "router"), tuple(hosts)),
        *(worker_holder(f"{kind}/{kind}-{number}") for kind, count in workers.items() for number in range(count)),
        *(Holder(name, Identity("operator", name)) for name in operators),
        *(Holder(name, Identity("client", name)) for name in clients),
    ]


def worker_holder(role_and_id: str) -> Holder:
    """The holder of ``prefill/ID``, ``decode/ID`` or ``flex/ID``, in files named by the id. Raises SettingsError.

    Of ``flex`` the certificate names both roles: no router takes a worker in a role that its certificate doesn't have.
    """
    kind, _, name = role_and_id.partition("/")
    roles = WORKER_KINDS if kind == "flex" else (kind,)
    named = [parse_identity(f"segue://{role}/{name}") for role in roles]
    identity = named[0]
    if identity is None or identity.kind not in WORKER_KINDS or identity.name == "*":
        raise SettingsError(f"{role_and_id!r} is no worker; write ROLE/ID, for example prefill/gpu-7 or flex/gpu-8")
    return Holder(identity.name, identity, other=named[1] if len(named) > 1 else None)


def make_ca(folder: Path, *, force: bool = False, days: float = CA_DAYS) -> None:
    """A new CA in ``folder``, which is made if need be.

    Raises:
        SettingsError: there is one already and ``force`` doesn't say to replace it.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not force and (folder / f"{CA_NAME}.key").exists():
        raise SettingsError(
            f"{folder} has a CA already; issue new certificates under it with --rotate, or replace it and thereby "
            "everything it signed with --force"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Segue development CA " + os.urandom(4).hex())
    builder = _builder(name, name, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = {**_NO_USAGE, "key_cert_sign": True, "crl_sign": True, "digital_signature": True}
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    _write_pair(folder, CA_NAME, key, builder.sign(key, hashes.SHA256()))


def issue(folder: Path, holder: Holder, *, days: float, now: datetime | None = None) -> TlsFiles:
    """Sign a new key for ``holder`` with the CA in ``folder``; its older files are replaced, each in one step.

    ``now`` is when the certificate begins, for tests.

    Raises:
        SettingsError: there is no CA in the folder.
    """
    try:
        ca_key: Any = serialization.load_pem_private_key((folder / f"{CA_NAME}.key").read_bytes(), None)
        ca = x509.load_pem_x509_certificate((folder / f"{CA_NAME}.crt").read_bytes())
    except OSError as error:
        raise SettingsError(f"{folder} has no CA ({error.strerror}: {error.filename}); make one first") from None
    key = ec.generate_private_key(ec.SECP256R1())
    days_left = (ca.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)
    if days_left <= 0:
        raise SettingsError(f"the CA in {folder} expired {-days_left:.1f} days ago; replace it with --force")
    builder = _builder(_name(str(holder.identity)), ca.subject, key, min(days, days_left), now)
    roles = [one for one in (holder.identity, holder.other) if one is not None]
    uris = [x509.UniformResourceIdentifier(str(role)) for role in roles]
    names = x509.SubjectAlternativeName([*uris, *_names(holder)])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True}), critical=True)
    serves = holder.identity.kind in ("router", *WORKER_KINDS)
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if serves else [])]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    builder = builder.add_extension(authority, critical=False)
    _write_pair(folder, holder.file, key, builder.sign(ca_key, hashes.SHA256()))
    return files_of(folder, holder.file)


_NO_USAGE = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


def _names(holder: Holder) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    if holder.identity.kind == "router":
        names.append(x509.DNSName(ROUTER_DNS))
    elif holder.identity.kind in WORKER_KINDS:
        names.append(x509.DNSName(worker_dns(holder.identity.name)))
    for host in holder.hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: float, now: datetime | None = None
) -> x509.CertificateBuilder:
    begin = (now or datetime.now(UTC)) - _CLOCK_SKEW
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + _CLOCK_SKEW + timedelta(days=days))
    )


def _write_pair(folder: Path, name: str, key: ec.EllipticCurvePrivateKey, cert: x509.Certificate) -> None:
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    _write(folder / f"{name}.key", key.private_bytes(*form), 0o600)
    _write(folder / f"{name}.crt", cert.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by more than ``mode`` allows."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    part.replace(path)
