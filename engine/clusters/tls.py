"""TLS between scheduler, workers and driver."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from distributed.security import Security

from engine.clusters.settings import Tls
from engine.errors import RunError

__all__ = ["named_security", "security_of", "tls_settings"]


def security_of(choice: bool | Tls, folder: Path) -> Security | None:
    """Certificates as files, which workers on other hosts can be given.

    Parameters
    ----------
    choice : False: none; True: made for this run, valid for its certificate alone; or files.
    folder : of the run's own, where those made for it are written; it is closed to all others.

    Raises
    ------
    RunError
        Where they cannot be made.
    """
    if choice is False:
        return None
    if isinstance(choice, Tls):
        return named_security(choice)
    try:
        made = Security.temporary()
    except ImportError as error:
        raise RunError(
            "certificates cannot be made here",
            got="no package cryptography",
            remedy="pip install cryptography, or name files: tls: {ca, cert, key}",
        ) from error
    folder.chmod(0o700)
    paths = []
    for name, text in (
        ("ca", made.tls_ca_file),
        ("cert", made.tls_client_cert),
        ("key", made.tls_client_key),
    ):
        path = folder / f"{name}.pem"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        paths.append(str(path))
    return _security(*paths)


def named_security(files: Tls) -> Security:
    """Certificates in files that somebody made."""
    return _security(files.ca, files.cert, files.key)


def tls_settings(security: Security | None) -> dict[str, Any]:
    """The same as Dask's settings, for workers that are told nothing but these."""
    if security is None:
        return {}
    names = {"ca-file": "tls_ca_file"} | {
        f"{role}.{part}": f"tls_{role}_{part}"
        for role in ("scheduler", "worker", "client")
        for part in ("cert", "key")
    }
    found: dict[str, Any] = {"distributed.comm.require-encryption": True}
    for name, attribute in names.items():
        found[f"distributed.comm.tls.{name}"] = getattr(security, attribute)
    return found


def _security(ca: str, cert: str, key: str) -> Security:
    return Security(
        require_encryption=True,
        tls_ca_file=ca,
        tls_scheduler_cert=cert,
        tls_scheduler_key=key,
        tls_worker_cert=cert,
        tls_worker_key=key,
        tls_client_cert=cert,
        tls_client_key=key,
    )
