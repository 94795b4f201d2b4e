"""Certificates for the tests of TLS, made by openssl. The fixture ``authority`` is in ``conftest.py``."""

from __future__ import annotations

import subprocess
from pathlib import Path

EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


class Authority:
    """A certificate authority in a folder, and certificates it has signed for 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        _openssl("req", "-x509", "-newkey", *EC, "-nodes", "-days", "1", "-subj", "/CN=test authority",
                 "-keyout", self._key, "-out", self.certificate)  # fmt: skip

    def sign(
        self, name: str, days: int = 1, names: str = "IP:127.0.0.1,DNS:localhost", to: Path | None = None
    ) -> tuple[Path, Path]:
        """Files of a certificate for ``name`` and of its key, in the folder ``to``. ``names`` are its alternative
        names, as openssl writes them; empty: none."""
        request, certificate, key = ((to or self._folder) / f"{name}.{end}" for end in ("csr", "pem", "key"))
        extension = self._folder / f"{name}.ext"
        extension.write_text(f"subjectAltName={names}" if names else "basicConstraints=CA:FALSE")
        _openssl("req", "-newkey", *EC, "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        _openssl("x509", "-req", "-days", days, "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                 "-CAcreateserial", "-extfile", extension, "-out", certificate)  # fmt: skip
        return certificate, key


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
