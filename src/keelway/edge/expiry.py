"""When a certificate expires. The standard library tells it of a peer's certificate only, not of one's own."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from typing import Final

_FIRST = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE, _VERSION, _UTC_TIME = 0x30, 0xA0, 0x17
#: Fields between the version of a certificate and its validity: serial number, algorithm, issuer (RFC 5280, 4.1).
_BEFORE_VALIDITY: Final = 3


def expiry_of(pem: bytes) -> float:
    """Seconds since 1970 at which the first certificate in ``pem`` expires. ``ValueError`` if there is none."""
    found = _FIRST.search(pem)
    if found is None:
        raise ValueError("no certificate")
    _, certificate, _ = _element(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")), _SEQUENCE)
    _, fields, _ = _element(certificate, _SEQUENCE)
    if fields[:1] == bytes([_VERSION]):
        _, _, fields = _element(fields)
    for _ in range(_BEFORE_VALIDITY):
        _, _, fields = _element(fields)
    _, validity, _ = _element(fields, _SEQUENCE)
    _, _, rest = _element(validity)
    kind, text, _ = _element(rest)
    return _seconds(kind, text.decode("ascii"))


def _seconds(kind: int, text: str) -> float:
    if kind == _UTC_TIME:  # two digits of the year, of this century or the last (RFC 5280, 4.1.2.5.1)
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(data: bytes, wanted: int | None = None) -> tuple[int, bytes, bytes]:
    """The kind and the content of the first element of ``data`` (DER), and what follows it."""
    if len(data) < 2 or (wanted is not None and data[0] != wanted):
        raise ValueError("not what was expected")
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    if len(data) < at + length:
        raise ValueError("cut short")
    return data[0], data[at : at + length], data[at + length :]
