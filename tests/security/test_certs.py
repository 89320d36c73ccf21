"""The development CA, and certificates as processes read them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from segue.base.errors import SettingsError
from segue.base.identity import Identity, parse_identity
from segue.base.tls import TlsFiles, TlsSource, check_own_identity
from segue.base.tls_grpc import add_port
from segue.base.tls_http import client_context
from segue.cli.main import app
from segue.cluster.certs import make_ca
from segue.router.access.keys import KeyRing, parse_keys
from segue.worker.mesh import open_mesh
from segue.worker.settings import WorkerSettings
from tests.security.mesh import Authority


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(args))
    return result.exit_code, result.output


def test_certs_makes_one_for_everybody_and_keys_that_only_the_owner_reads(tmp_path: Path) -> None:
    status, output = run("certs", str(tmp_path / "c"), "--prefill", "2", "--worker", "decode/gpu-7")
    assert status == 0, output
    names = {"ca", "router", "prefill-0", "prefill-1", "decode-0", "gpu-7", "operator", "client"}
    assert {path.name for path in (tmp_path / "c").iterdir()} == {f"{n}.{end}" for n in names for end in ("crt", "key")}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").glob("*.key")} == {0o600}
    assert "segue://decode/gpu-7" in output
    source = TlsSource(TlsFiles(str(tmp_path / "c/gpu-7.crt"), str(tmp_path / "c/gpu-7.key")))
    assert source.current().identities == (Identity("decode", "gpu-7"),)


def test_certs_replaces_a_ca_only_when_told_to(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    assert run("certs", str(folder))[0] == 0
    ca, router = (folder / "ca.crt").read_bytes(), (folder / "router.crt").read_bytes()
    status, output = run("certs", str(folder))
    assert status == 2
    assert "--rotate" in output
    assert ((folder / "ca.crt").read_bytes(), (folder / "router.crt").read_bytes()) == (ca, router)
    assert run("certs", str(folder), "--rotate")[0] == 0
    assert (folder / "ca.crt").read_bytes() == ca
    assert (folder / "router.crt").read_bytes() != router
    assert run("certs", str(folder), "--force")[0] == 0
    assert (folder / "ca.crt").read_bytes() != ca


def test_rotating_without_a_ca_says_so(tmp_path: Path) -> None:
    status, output = run("certs", str(tmp_path / "none"), "--rotate")
    assert status == 2
    assert "has no CA" in output


def test_a_rotated_certificate_is_read_and_a_half_done_rotation_is_not(ours: Authority) -> None:
    files = ours.files("prefill", "p")
    source = TlsSource(files)
    first = source.current()
    assert source.current() is first
    key = Path(files.key).read_bytes()
    ours.files("prefill", "p")
    Path(files.key).write_bytes(key)  # The new certificate with the old key.
    with capture_logs() as logs:
        assert source.current() is first
    assert [(entry["event"], "is not the key of" in entry["error"]) for entry in logs] == [
        ("certificate_not_reloaded", True)
    ]
    ours.files("prefill", "p")
    second = source.current()
    assert second.version > first.version
    assert second.cert != first.cert
    os.unlink(files.cert)
    assert source.current() is second


def test_an_expired_certificate_is_told_at_once(ours: Authority) -> None:
    with capture_logs() as logs:
        ours.source("prefill", "p", expired=True)
    assert [entry["event"] for entry in logs] == ["certificate_expired"]


def test_no_key_shows_in_what_is_printed(ours: Authority) -> None:
    source = ours.source("prefill", "p")
    pem = source.current()
    assert pem.key is not None
    assert b"PRIVATE KEY" in pem.key
    assert "PRIVATE KEY" not in repr(pem)


@pytest.mark.parametrize("missing", ["cert", "key"])
def test_half_a_certificate_is_refused(missing: str) -> None:
    with pytest.raises(SettingsError, match="missing"):
        TlsFiles(**{"cert": "a", "key": "b", missing: ""})


def test_files_that_are_no_pem_are_refused_without_quoting_them(ours: Authority, tmp_path: Path) -> None:
    files = ours.files("prefill", "p")
    (tmp_path / "bad").write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
    with pytest.raises(SettingsError, match="holds no private key") as refusal:
        TlsSource(TlsFiles(files.cert, str(tmp_path / "bad")))
    assert "secret" not in str(refusal.value)
    with pytest.raises(SettingsError, match="can't read"):
        TlsSource(TlsFiles(str(tmp_path / "none"), files.key))


def test_a_process_with_anothers_certificate_refuses_to_start(ours: Authority) -> None:
    source = ours.source("prefill", "p")
    check_own_identity(source, "prefill", "p")
    check_own_identity(ours.source("decode", "*"), "decode", "any")
    for kind, name in (("prefill", "q"), ("decode", "p")):
        with pytest.raises(SettingsError, match=f"this process is segue://{kind}/{name}"):
            check_own_identity(source, kind, name)


def test_a_flex_worker_needs_a_certificate_for_both_its_roles(ours: Authority, tmp_path: Path) -> None:
    settings = WorkerSettings(model="m", routers=("r:1",), worker_id="flex-0", tls=ours.files("prefill", "flex-0"))
    open_mesh(settings, "prefill")
    with pytest.raises(SettingsError, match="this process is segue://decode/flex-0"):
        open_mesh(settings, "prefill", "decode")
    status, output = run("certs", str(tmp_path / "c"), "--flex", "1", "--worker", "flex/gpu-8")
    assert status == 0, output
    both = TlsFiles(*(str(tmp_path / "c" / name) for name in ("flex-0.crt", "flex-0.key", "ca.crt")))
    open_mesh(settings.model_copy(update={"tls": both}), "prefill", "decode")
    assert (tmp_path / "c/gpu-8.crt").exists()


@pytest.mark.parametrize("uri", ["segue://boss/x", "segue://prefill/", "http://prefill/x", "segue://prefill/a/b", ""])
def test_other_uris_are_no_identity(uri: str) -> None:
    assert parse_identity(uri) is None


@pytest.mark.parametrize("name", ["prefill", "router/x", "prefill/a b", "prefill/*", "client/x"])
def test_no_certificate_for_what_is_no_worker(tmp_path: Path, name: str) -> None:
    status, output = run("certs", str(tmp_path / "c"), "--worker", name)
    assert status == 2
    assert "is no worker" in output
    assert not (tmp_path / "c").exists()


def test_an_expired_ca_signs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    make_ca(folder, days=-0.001)
    status, output = run("certs", str(folder), "--rotate")
    assert status == 2
    assert "expired" in output
    assert "--force" in output


def test_while_a_ca_is_replaced_both_are_trusted(ours: Authority, strangers: Authority, tmp_path: Path) -> None:
    """As docs/security.md has it: one file with the old CA and the new one."""
    both = tmp_path / "both.crt"
    both.write_bytes(b"".join((ca.folder / "ca.crt").read_bytes() for ca in (ours, strangers)))
    old, new = (authority.files("router", "r", "localhost") for authority in (ours, strangers))
    for own in (old, new):
        tls = TlsSource(TlsFiles(own.cert, own.key, str(both)))
        server = grpc.server(None)  # type: ignore[arg-type]
        port = add_port(server, "127.0.0.1:0", tls)
        server.start()
        for theirs in (old, new):
            caller = client_context(TlsFiles(theirs.cert, theirs.key, str(both)))
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                caller.wrap_socket(plain, server_hostname="localhost") as connection,
            ):
                assert connection.getpeercert()
        server.stop(None)


def test_a_new_key_is_shown_once_and_its_line_appended(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    status, secret = run("keys", "new", "alice", "--append", str(file), "--max-concurrent-requests", "3")
    assert status == 0
    (key,) = parse_keys(file.read_text(), "keys")
    assert KeyRing([key]).authenticate(f"Bearer {secret.strip()}").limits.max_concurrent_requests == 3
    status, output = run("keys", "new", "alice", "--append", str(file))
    assert status == 2
    assert "is there twice" in output
    assert len(file.read_text().splitlines()) == 1
    status, output = run("keys", "new", "a b")
    assert status == 2


def test_a_cluster_without_a_certificate_for_each_process_is_refused_before_it_starts(tmp_path: Path) -> None:
    certs, logs = str(tmp_path / "certs"), str(tmp_path / "logs")
    assert run("certs", certs, "--prefill", "1")[0] == 0
    for arguments in (("--certs", str(tmp_path / "none")), ("--certs", certs, "--prefill", "2")):
        status, output = run("up", "--model", "m", "--log-dir", logs, *arguments)
        assert status == 2
        assert "can't read" in output
        assert "segue certs" in output
    assert not list(Path(logs).glob("*.log"))
