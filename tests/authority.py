"""The tests' certificate authorities: whatever certificate a test wants to see accepted or refused, and for what reason.

Keys are ECDSA as those of most servers are, for foreign programs and for TLS 1.2.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from tieline import Identity
from tieline.testing.certificates import certificates

__all__ = [
    "CLIENT",
    "EXPIRED",
    "FUTURE",
    "LOCALHOST",
    "OTHER_NAME",
    "ROOT",
    "RSA",
    "STRANGER",
    "TRUST",
    "save",
]


def save(folder: Path, name: str, identity: Identity) -> tuple[Path, Path]:
    """Write certificate and key as foreign programs read them; returns both paths."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    for path, text in zip((certificate, key), identity.pem(), strict=True):
        path.write_text(text)
    return certificate, key


ROOT = certificates("Tieline test root", key="ecdsa")
STRANGER = certificates("Nobody's root", key="ecdsa")
TRUST = ROOT.trust
LOCALHOST = ROOT.identity("localhost", "127.0.0.1", "::1")
RSA = ROOT.identity("localhost", key="rsa")
OTHER_NAME = ROOT.identity("other.example")
EXPIRED = ROOT.identity("localhost", valid_until=timedelta(days=-1))
FUTURE = ROOT.identity("localhost", valid_from=timedelta(hours=12))
CLIENT = ROOT.identity("a client")
