"""A certificate for 127.0.0.1 and its key, made by the openssl command."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from in_time import PATIENCE_S

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")


@dataclass(frozen=True)
class Certificate:
    """Its files, PEM."""

    certificate: Path
    key: Path

    def client(self) -> ssl.SSLContext:
        """A client that trusts this certificate alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path, name: str = "server", locked_with: str | None = None) -> Certificate:
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
    locked = ["-passout", f"pass:{locked_with}"] if locked_with else ["-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", str(made.certificate),
         "-keyout", str(made.key), *locked],
        check=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return made


def make_leaf(folder: Path) -> Certificate:
    """One that an authority signed, as a site has it from its own: without the authority's certificate beside it."""
    authority, made = make_certificate(folder, "authority"), Certificate(folder / "leaf.pem", folder / "leaf.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "1", "-nodes",
         "-subj", "/CN=daemon", "-addext", "subjectAltName=IP:127.0.0.1",
         "-addext", "basicConstraints=critical,CA:FALSE",
         "-CA", str(authority.certificate), "-CAkey", str(authority.key), "-out", str(made.certificate),
         "-keyout", str(made.key)],
        check=True, capture_output=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return made
