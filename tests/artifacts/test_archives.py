from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keelway.artifacts import archives
from keelway.artifacts.archives import ArchiveLimits, extract, zip_names
from keelway.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable

FILES = {"model.onnx": b"graph" * 100, "nested/weights.bin": os.urandom(3000), "nested/empty": b""}


def zip_bytes(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return buffer.getvalue()


def tar_bytes(files: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    return tar_of(*(member(name, data) for name, data in files.items()), format=format)


def member(name: str, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as opened:
        for info, data in members:
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(tmp_path: Path, data: bytes, limits: ArchiveLimits = archives.DEFAULT_LIMITS) -> dict[str, bytes]:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    extract(archive, tmp_path / "out", limits)
    out = tmp_path / "out"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def refused(tmp_path: Path, data: bytes, limits: ArchiveLimits = archives.DEFAULT_LIMITS) -> str:
    """The message of the refusal, after a look that nothing was left behind."""
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(CorruptArtifact) as refusal:
        extract(tmp_path / "archive", tmp_path / "out", limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]
    assert "\n" not in refusal.value.message
    return refusal.value.message


PACKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": zip_bytes,
    "zip-stored": lambda files: zip_bytes(files, zipfile.ZIP_STORED),
    "tar-pax": tar_bytes,
    "tar-gnu": lambda files: tar_bytes(files, tarfile.GNU_FORMAT),
    "tar-ustar": lambda files: tar_bytes(files, tarfile.USTAR_FORMAT),
    "tar.gz": lambda files: gzip.compress(tar_bytes(files)),
}
EVERY_KIND = pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())


@EVERY_KIND
def test_an_honest_archive_is_unpacked_into_a_private_folder(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    assert unpack(tmp_path, pack(FILES)) == FILES
    for path in (tmp_path / "out", *(tmp_path / "out").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_in_tar_survive(tmp_path: Path, format: int) -> None:
    files = {"/".join(["a" * 60] * 4) + "/größe.bin": b"x", "b" * 200: b"y"}
    assert unpack(tmp_path, tar_bytes(files, format)) == files


def test_a_tar_packed_from_inside_a_folder_is_accepted(tmp_path: Path) -> None:
    data = tar_of(
        member(".", type=tarfile.DIRTYPE),
        member("./nested", type=tarfile.DIRTYPE, mode=0o777),
        member("./nested/file", b"x", mode=0o4777, uid=0),
    )
    assert unpack(tmp_path, data) == {"nested/file": b"x"}
    assert stat.S_IMODE((tmp_path / "out" / "nested" / "file").stat().st_mode) == 0o600


def test_an_archive_inside_an_archive_stays_a_file(tmp_path: Path) -> None:
    inner = zip_bytes({"../escape": b"x"})
    assert unpack(tmp_path, zip_bytes({"inner.zip": inner})) == {"inner.zip": inner}


HOSTILE_NAMES = [
    "../escape",
    "/escape",
    "a/../../escape",
    "a//b",
    "C:\\x",
    "..\\escape",
    "a\nb",
    "x/",
    "....//x",
    "~/.x:y",
]


@EVERY_KIND
@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if not name.endswith("/")])
def test_a_name_that_leaves_the_folder_is_refused(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    refused(tmp_path, pack({"good": b"x", name: b"evil"}))


@EVERY_KIND
@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(alphabet=st.sampled_from("./\\:ab A") | st.characters(codec="utf-8"), max_size=12), max_size=4
    )
)
def test_whatever_the_names_nothing_is_written_outside(
    tmp_path_factory: pytest.TempPathFactory, pack: Callable[[dict[str, bytes]], bytes], names: list[str]
) -> None:
    base = tmp_path_factory.mktemp("hostile")
    try:
        data = pack(dict.fromkeys(names, b"x"))
    except (ValueError, UnicodeError, tarfile.TarError):
        return  # the packer itself cannot write that name
    try:
        unpack(base, data)
    except (CorruptArtifact, InvalidInput):
        assert not (base / "out").exists()
    assert {path.name for path in base.iterdir()} <= {"archive", "out"}


@EVERY_KIND
def test_names_that_collide_are_refused(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    refused(tmp_path, pack({"a/Model": b"x", "A/mODEL": b"y"}))
    refused(tmp_path, pack({"a": b"x", "a/b": b"y"}))


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, tar_of(member("a", b"x"), member("a", b"y")))
    refused(tmp_path, zip_bytes({"a": b"x", "b": b"y"}).replace(b"b", b"a"))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.GNUTYPE_SPARSE,
        b"Z",
    ],
)
def test_a_tar_entry_that_is_no_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    refused(tmp_path, tar_of(member("good", b"x"), member("bad", type=kind, linkname="/etc/passwd")))


def test_a_link_with_a_long_target_is_refused_in_both_dialects(tmp_path: Path) -> None:
    for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        refused(tmp_path, tar_of(member("bad", type=tarfile.SYMTYPE, linkname="x" * 200), format=format))


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFDIR])
def test_a_zip_entry_that_is_no_file_is_refused(tmp_path: Path, mode: int) -> None:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo("link")
    info.external_attr = (mode | 0o777) << 16
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr(info, "/etc/passwd")
    refused(tmp_path, buffer.getvalue())


def test_a_zip_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, zip_bytes({"model.onnxXevil": b"x"}).replace(b"model.onnxXevil", b"model.onnx\0evil"))


def test_an_encrypted_zip_and_an_exotic_compression_are_refused(tmp_path: Path) -> None:
    encrypted = bytearray(zip_bytes({"a": b"x"}))
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    assert "encrypted" in refused(tmp_path, bytes(encrypted))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "deflate" in refused(tmp_path, zip_bytes({"a": b"x"}, method))


@EVERY_KIND
def test_too_many_entries_are_refused(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    data = pack({f"f{index}": b"" for index in range(11)})
    assert "entries" in refused(tmp_path, data, ArchiveLimits(entries=10))


@EVERY_KIND
def test_too_many_bytes_are_refused(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    data = pack({"a": os.urandom(5000), "b": os.urandom(5000)})
    assert "bytes" in refused(tmp_path, data, ArchiveLimits(total_bytes=9000))


@pytest.mark.parametrize("pack", [PACKERS["zip"], PACKERS["tar.gz"]], ids=["zip", "tar.gz"])
def test_a_bomb_is_stopped_by_its_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 1000)
    assert "times its size" in refused(tmp_path, pack({"zeros": bytes(5_000_000)}))


def test_a_bomb_of_headers_alone_is_stopped_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 100_000)
    monkeypatch.setattr(archives, "_MAX_TAR_EXTENSIONS", 10**9)
    comment = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    assert "times its size" in refused(tmp_path, gzip.compress(comment * 20_000))


def test_zeros_after_the_end_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FREE_BYTES", 100_000)
    assert "times its size" in refused(tmp_path, gzip.compress(tar_bytes({"a": b"x"}) + bytes(10_000_000)))


def lying_zip(stated: int, data: bytes = b"x" * 1000) -> bytes:
    """A zip whose two headers state a wrong length, with a checksum that fits the stated one if it can."""
    packed = bytearray(zip_bytes({"a": data}))
    local, central = packed.index(b"PK\x03\x04"), packed.index(b"PK\x01\x02")
    for offset in (local + 22, central + 24):
        packed[offset : offset + 4] = struct.pack("<I", stated)
    for offset in (local + 14, central + 16):
        packed[offset : offset + 4] = struct.pack("<I", zlib.crc32(data[:stated]))
    return bytes(packed)


def test_a_zip_that_unpacks_to_less_than_its_header_says_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, lying_zip(5000))


def test_a_zip_that_hides_bytes_behind_its_header_yields_no_more_than_stated(tmp_path: Path) -> None:
    # zipfile stops at the stated length and the checksum was made to fit: what comes out is what was counted.
    assert unpack(tmp_path, lying_zip(10)) == {"a": b"x" * 10}


def test_a_zip_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    packed = bytearray(zip_bytes({"a": b"x" * 100}, zipfile.ZIP_STORED))
    packed[packed.index(b"xxxx")] ^= 1
    refused(tmp_path, bytes(packed))


def test_a_zip_whose_two_headers_disagree_on_the_name_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, zip_bytes({"name1": b"x"}).replace(b"name1", b"name2", 1))


def test_a_zip_directory_of_a_million_entries_is_never_read(tmp_path: Path) -> None:
    packed = zip_bytes({"a": b""})
    start = packed.index(b"PK\x01\x02")
    entry, end = packed[start : packed.index(b"PK\x05\x06")], packed[packed.index(b"PK\x05\x06") :]
    directory = entry * (5 * 1024 * 1024 // len(entry))
    lying_end = end[:12] + struct.pack("<I", len(directory)) + end[16:]
    assert "entries" in refused(tmp_path, packed[:start] + directory + lying_end)


def with_header(header: bytes, field: slice, value: bytes) -> bytes:
    """A tar header with one field replaced and its checksum made right again."""
    block = bytearray(header[:512])
    block[field] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + header[512:]


SIZE = slice(124, 136)


@pytest.mark.parametrize(
    "size", [b"00000000024\0", b"77777777777\0", b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"not a number"]
)
def test_a_tar_entry_that_lies_about_its_size_is_refused(tmp_path: Path, size: bytes) -> None:
    lying = with_header(tar_bytes({"a": b"x" * 10}), SIZE, size)[:1024]
    refused(tmp_path, tar_bytes({"good": b""})[:512] + lying)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    "records",
    [
        b"13 size=9999\n",
        b"11 size=-5\n",
        b"10 size=x\n",
        b"99999999999999999999999 path=x\n",
        b"0 path=x\n",
        b"-1 path=x\n",
        b"11 path=x\n",
        b"10 path=xy",
        b"14 path=../up\n",
        b"11 \xff\xff=xy\n",
        b"12 path=\xff\xff\n",
        b"23 GNU.sparse.major=10\n",
        b"22 linkpath=/etc/pass\n",
        b"garbage",
        b"1" * 300,
        b"\0\0\0",
    ],
)
def test_a_hostile_extended_header_is_refused(tmp_path: Path, records: bytes) -> None:
    refused(tmp_path, pax(records) + tar_bytes({"a": b"x"}))


def test_extended_headers_that_pile_up_disagree_or_speak_for_all_are_refused(tmp_path: Path) -> None:
    tail = tar_bytes({"a": b"x"})
    refused(tmp_path, pax(b"10 path=b\n") * 2 + tail)
    refused(tmp_path, pax(b"11 mtime=1\n") * 100 + tail)
    refused(tmp_path, pax(b"10 path=b\n", tarfile.XGLTYPE) + tail)
    assert unpack(tmp_path, pax(b"13 comment=x\n", tarfile.XGLTYPE) + pax(b"10 path=b\n") + tail) == {"b": b"x"}


def test_an_extended_header_is_never_read_whatever_its_length(tmp_path: Path) -> None:
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        assert "too large" in refused(tmp_path, gzip.compress(pax(bytes(70_000), kind)))


@EVERY_KIND
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    data = pack({"a": os.urandom(700), "b": b"y"})
    ends = len(data.rstrip(b"\0")) if data[:2] not in (b"PK", b"\x1f\x8b") else len(data) - 1
    for length in range(600, ends, 97):
        refused(tmp_path, data[:length])


@EVERY_KIND
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255))
def test_one_changed_byte_never_ends_in_anything_but_an_answer_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, pack: Callable[[dict[str, bytes]], bytes], position: int, value: int
) -> None:
    base = tmp_path_factory.mktemp("changed")
    data = bytearray(pack({"a": b"xyz" * 50, "n/b": b"y"}))
    data[position % len(data)] = value
    try:
        unpack(base, bytes(data))
    except (CorruptArtifact, InvalidInput):
        assert not (base / "out").exists()


def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path) -> None:
    for data in (b"", b"PNG", b"\x89PNG\r\n\x1a\n" + bytes(600), bytes(2000)):
        (tmp_path / "archive").write_bytes(data)
        with pytest.raises(InvalidInput):
            extract(tmp_path / "archive", tmp_path / "out")
    with pytest.raises(NotFound):
        extract(tmp_path / "missing", tmp_path / "out")


def test_a_full_disk_is_unavailable_not_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "archive").write_bytes(zip_bytes(FILES))
    monkeypatch.setattr(archives, "open_new", full)
    with pytest.raises(Unavailable):
        extract(tmp_path / "archive", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]


def test_the_names_of_a_zip_are_read_without_unpacking() -> None:
    assert zip_names(io.BytesIO(zip_bytes(FILES))) == tuple(FILES)
    with pytest.raises(CorruptArtifact):
        zip_names(io.BytesIO(b"PK\x03\x04garbage"))
