"""TLS between scheduler, workers, nannies and driver.

A run's certificate is its own authority: whoever shows it holds the run's key, and nobody else is
let in. It has no end, since the key has one: its folder goes with the run.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.security import Security

from engine.clusters.settings import Tls

__all__ = ["make_certificate", "named_security", "security_of", "tls_settings"]

# Hosts whose clocks are wrong can join, and no run is too long. RFC 5280 (4.1.2.5) names the end
# of a certificate that has none.
_FROM = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def make_certificate() -> tuple[bytes, bytes]:
    """A new key on the curve P-256, and a certificate that it has signed itself.

    Returns
    -------
    certificate, private key : PEM
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "natmap run")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def security_of(choice: bool | Tls, folder: Path) -> Security | None:
    """Certificates as files, which workers that start later or elsewhere can be given.

    Parameters
    ----------
    choice : False: none; True: made for this run, valid for its certificate alone; or files.
    folder : of the run's own, where those made for it are written; it is closed to all others.
    """
    if choice is False:
        return None
    if isinstance(choice, Tls):
        return named_security(choice)
    folder.chmod(0o700)
    paths = []
    for name, text in zip(("certificate", "key"), make_certificate(), strict=True):
        path = folder / f"{name}.pem"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(text)
        paths.append(str(path))
    certificate, key = paths
    return _security(certificate, certificate, key)


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
