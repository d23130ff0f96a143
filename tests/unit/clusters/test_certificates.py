"""A run's own certificate, and the folder that it lies in."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from distributed.security import Security

from engine.clusters.tls import make_certificate, security_of
from engine.files import scratch


def made(folder: Path) -> Security:
    found = security_of(True, folder)
    assert found is not None
    return found


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake in memory, and a byte each way: only then both have looked."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for end, other in (ends, ends[::-1]):
        end.write(b"a")
        assert other.read(1) == b"a"


def contexts(security: Security) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return (
        security.get_listen_args("scheduler")["ssl_context"],
        security.get_connection_args("worker")["ssl_context"],
    )


def test_files_are_their_owner_s_and_leave_with_the_folder() -> None:
    with scratch() as folder:
        found = made(folder)
        assert found.require_encryption
        assert folder.stat().st_mode & 0o777 == 0o700
        files = list(folder.glob("*.pem"))
        assert len(files) == 2
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
        assert security_of(False, folder) is None
    assert not folder.exists()


def test_a_file_that_is_there_already_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "key.pem").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        made(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def test_those_of_one_run_understand_each_other_and_no_other(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = made(tmp_path / "one"), made(tmp_path / "other")
    shake(*contexts(one))
    (server, client), (far_server, far_client) = contexts(one), contexts(other)
    for pair in ((server, far_client), (far_server, client)):
        with pytest.raises(ssl.SSLError, match=r"(?i)certificate|unknown ca"):
            shake(*pair)


def test_no_clock_and_no_run_is_outside_of_its_time() -> None:
    found = x509.load_pem_x509_certificate(make_certificate()[0])
    assert found.not_valid_before_utc < datetime(2001, 1, 1, tzinfo=UTC)
    # of RFC 5280, 4.1.2.5: no end
    assert found.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
