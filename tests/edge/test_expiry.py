"""When a certificate expires, as openssl says it. # R1"""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import Authority

from keelway.edge.expiry import expiry_of


@pytest.mark.parametrize("days", [1, 400, 20_000])  # the last one is written with four digits of the year
def test_the_end_is_what_openssl_says(authority: Authority, tmp_path: Path, days: int) -> None:
    certificate, _ = authority.sign("some", days=days, to=tmp_path)
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate", "-in", certificate], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert expiry_of(certificate.read_bytes()) == ssl.cert_time_to_seconds(said.removeprefix("notAfter="))


def test_of_a_chain_the_first_certificate_counts(authority: Authority, tmp_path: Path) -> None:
    short, _ = authority.sign("short", days=1, to=tmp_path)
    long, _ = authority.sign("long", days=30, to=tmp_path)
    both = b"# comments stand here\n" + long.read_bytes() + short.read_bytes()
    assert expiry_of(both) == expiry_of(long.read_bytes())


@given(st.binary(max_size=200))
def test_anything_else_is_no_certificate(data: bytes) -> None:
    pem = ssl.DER_cert_to_PEM_cert(data).encode()
    for text in (data, pem):
        with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
            expiry_of(text)
