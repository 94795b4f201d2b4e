"""Where signatures are required, nothing else is loaded: at the start, when an alias moves, as a file. # S4 S5"""

from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.serving import Server, forest, wait_until

from keelway.access import SigningSettings
from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.artifacts.signing import SigningKey
from keelway.artifacts.statement import SignaturePolicy, sign_version
from keelway.config import Settings
from keelway.contract.names import parse_reference
from keelway.errors import CorruptArtifact, UntrustedArtifact
from keelway.hosting import artifacts as hosted
from keelway.hosting.files import FileSource
from keelway.hosting.registered import RegistrySource
from keelway.ports import RuntimeOptions
from keelway.publish.compose import Member, compose, wire
from keelway.registry.store import Registry, Signing
from keelway.supervise.messages import Prepare
from keelway.supervise.opening import opener

WHO: Any = {"who": "ada", "why": "a test"}
ROWS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
KEY = SigningKey.generate()
SIGN = partial(sign_version, KEY)
REQUIRED = SigningSettings(require_signature=True, trusted_keys=(KEY.public_pem(),))
OPTIONS = RuntimeOptions(1)

Push = Callable[..., str]


@pytest.fixture
def push(push: Callable[..., str]) -> Push:
    """As ``push`` of all, signed unless said otherwise."""

    def signed(name: str, version: str, sign: Signing | None = SIGN) -> str:
        return push(name, version, sign)

    return signed


def demanding(registry: Registry, blobs: BlobStore, *references: str) -> RegistrySource:
    policy = SignaturePolicy.of(REQUIRED)
    return RegistrySource(registry, blobs, [parse_reference(reference) for reference in references], policy)


def load(source: RegistrySource) -> None:
    (wanted,) = source.wanted()
    for release in wanted.releases:
        source.open(release, OPTIONS).close()


def by_hand(tmp_path: Path, statement: str, *values: object) -> None:
    """What somebody does who can write to the database, and has no key."""
    with closing(sqlite3.connect(tmp_path / "registry.db")) as connection, connection:
        connection.execute(statement, values)


def version(server: Server) -> str:
    return str(server.post("/v1/models/iris/predict", ROWS).json["model_version"])


def test_what_a_trusted_key_signed_is_served(registry: Registry, blobs: BlobStore, push: Push) -> None:
    push("iris", "1.0.0")
    with Server(demanding(registry, blobs, "iris")) as server:
        assert version(server) == "1.0.0"


def test_a_server_does_not_start_with_an_unsigned_version(registry: Registry, blobs: BlobStore, push: Push) -> None:
    push("iris", "1.0.0", None)
    with (
        pytest.raises(UntrustedArtifact, match=r"iris 1\.0\.0 is not signed by a trusted key: it has no signature"),
        Server(demanding(registry, blobs, "iris")),
    ):
        pass


def test_when_an_alias_moves_to_an_unsigned_version_the_old_one_goes_on_until_it_is_signed(
    registry: Registry, blobs: BlobStore, push: Push, caplog: pytest.LogCaptureFixture
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0", None)
    with Server(demanding(registry, blobs, "iris")) as server, caplog.at_level(logging.ERROR):
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        wait_until(lambda: "cannot load iris 1.1.0" in caplog.text, "the server to say so")
        assert "it has no signature" in caplog.text
        assert version(server) == "1.0.0"
        (waiting,) = [entry for entry in server.app.fleet.index() if entry.version == "1.1.0"]
        assert (waiting.state, "not signed" in waiting.reason) == ("UNAVAILABLE", True)
        # Well within the time after which a version that could not be loaded is tried again by itself.
        registry.sign("iris", "1.1.0", SIGN, **WHO)
        wait_until(lambda: version(server) == "1.1.0", "the version that is signed now", patience=10.0)


def test_a_signature_of_another_version_of_the_same_model_does_not_count(
    registry: Registry, blobs: BlobStore, push: Push
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0", lambda name, _, digest: SIGN(name, "1.0.0", digest))
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris@1.1.0"))


def test_a_signature_of_another_model_does_not_count(registry: Registry, blobs: BlobStore, push: Push) -> None:
    push("iris", "1.0.0", lambda _, version, digest: SIGN("flowers", version, digest))
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris"))


def test_a_signature_copied_to_another_version_by_hand_does_not_count(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0", None)
    by_hand(tmp_path, "UPDATE signatures SET version = '1.1.0'")
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris@1.1.0"))


def test_a_digest_swapped_in_the_database_is_refused(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    push("iris", "1.0.0")
    other = push("evil", "6.6.6", None)
    by_hand(tmp_path, "UPDATE versions SET model_digest = ? WHERE model = 'iris'", other)
    load(RegistrySource(registry, blobs, [parse_reference("iris")]))  # nothing else tells them apart
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris"))


def test_an_old_signature_is_none_over_what_was_pushed_again(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    digest = push("iris", "1.0.0")
    for table in ("aliases", "policies", "signatures", "versions", "models"):
        by_hand(tmp_path, f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
        by_hand(tmp_path, f"DELETE FROM {table}")
    shutil.rmtree(tmp_path / "iris-1.0.0")
    path, signature, *_ = forest()
    folder = tmp_path / "again"
    folder.mkdir()
    shutil.copy(path, folder / "model.onnx")
    again = put_manifest(blobs, Manifest(store_folder(blobs, folder), signature, "onnx"))
    registry.push("iris", "1.0.0", again, **WHO)
    by_hand(tmp_path, "INSERT INTO signatures SELECT * FROM kept_signatures")
    assert again != digest
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris"))


@pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, "text where bytes should be"])
def test_a_truncated_signature_is_refused(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path, signature: object
) -> None:
    push("iris", "1.0.0")
    by_hand(tmp_path, "UPDATE signatures SET signature = ?", signature)
    with pytest.raises(UntrustedArtifact, match="does not hold"):
        load(demanding(registry, blobs, "iris"))


def test_a_key_that_is_not_trusted_vouches_for_nothing(registry: Registry, blobs: BlobStore, push: Push) -> None:
    push("iris", "1.0.0", partial(sign_version, SigningKey.generate()))
    with pytest.raises(UntrustedArtifact, match="which is not trusted"):
        load(demanding(registry, blobs, "iris"))


def test_a_manifest_or_file_changed_under_a_valid_signature_is_refused(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    digest = push("iris", "1.0.0")
    for hexadecimal in (digest.removeprefix("sha256:"), hash_of(tmp_path / "iris-1.0.0" / "model.onnx")):
        stored = tmp_path / "artifacts" / "sha256" / hexadecimal[:2] / hexadecimal[2:]
        whole = stored.read_bytes()
        stored.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(CorruptArtifact):
            load(demanding(registry, blobs, "iris"))
        stored.write_bytes(whole)
    load(demanding(registry, blobs, "iris"))


def test_what_changes_in_the_store_after_it_was_verified_is_not_what_is_loaded(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push("iris", "1.0.0")
    name = hash_of(tmp_path / "iris-1.0.0" / "model.onnx")
    stored = tmp_path / "artifacts" / "sha256" / name[:2] / name[2:]
    verified, find_loader, seen = hosted.materialise, hosted.runtime_loader, list[bytes]()

    def verified_and_then_changed(store: BlobStore, manifest: Manifest, folder: Path) -> None:
        verified(store, manifest, folder)
        assert folder.stat().st_mode & 0o077 == 0  # nobody else reaches the copy
        with stored.open("r+b") as file:  # in place: a copy that shared its bytes would change too
            file.write(b"something else")

    def loader(runtime: str) -> Any:
        def load(folder: Path, *rest: Any) -> Any:
            seen.append((folder / "model.onnx").read_bytes())
            return find_loader(runtime)(folder, *rest)

        return load

    monkeypatch.setattr(hosted, "materialise", verified_and_then_changed)
    monkeypatch.setattr(hosted, "runtime_loader", loader)
    load(demanding(registry, blobs, "iris"))
    assert seen == [(tmp_path / "iris-1.0.0" / "model.onnx").read_bytes()]
    with pytest.raises(CorruptArtifact):
        load(demanding(registry, blobs, "iris"))


def test_the_digest_that_was_signed_is_the_one_that_is_loaded_whatever_the_database_says_later(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    digest, other = push("iris", "1.0.0"), push("evil", "6.6.6", None)
    source = demanding(registry, blobs, "iris")
    (wanted,) = source.wanted()
    by_hand(tmp_path, "UPDATE versions SET model_digest = ? WHERE model = 'iris'", other)
    opened = source.open(wanted.releases[0], OPTIONS)
    assert opened.manifest.digest == digest
    opened.close()


def pipeline(blobs: BlobStore, member: str) -> Manifest:
    _, signature, *_ = forest()
    manifest = Manifest.from_bytes(blobs.read(member), member)
    inputs = {spec.name: spec.name for spec in signature.inputs}
    outputs = {spec.name: f"model.{spec.name}" for spec in signature.outputs}
    return wire([Member("model", manifest, inputs)], outputs, blobs)


def test_the_signature_of_a_pipeline_covers_its_members(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    member = push("iris", "1.0.0", None)
    digest = put_manifest(blobs, pipeline(blobs, member))
    registry.push("whole", "1.0.0", digest, sign=SIGN, **WHO)
    load(demanding(registry, blobs, "whole"))
    stored = tmp_path / "artifacts" / "sha256" / member[7:9] / member[9:]
    stored.write_bytes(stored.read_bytes().replace(b"onnx", b"skops"))
    with pytest.raises(CorruptArtifact):
        load(demanding(registry, blobs, "whole"))


def test_a_pipeline_that_is_not_signed_is_refused_whatever_its_members_are(
    registry: Registry, blobs: BlobStore, push: Push
) -> None:
    registry.push("whole", "1.0.0", put_manifest(blobs, pipeline(blobs, push("iris", "1.0.0"))), **WHO)
    with pytest.raises(UntrustedArtifact, match=r"whole 1\.0\.0"):
        load(demanding(registry, blobs, "whole"))


def test_nothing_unsigned_becomes_a_member_of_what_will_be_signed(
    registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    file = tmp_path / "whole.toml"
    _, signature, *_ = forest()
    ((tensor,), (first, *_)) = ([spec.name for spec in signature.inputs], [spec.name for spec in signature.outputs])
    file.write_text(
        f'[[step]]\nname = "model"\nmodel = "iris@1.0.0"\ninputs = {{ "{tensor}" = "x" }}\n'
        f'[outputs]\ny = "model.{first}"\n'
    )
    push("iris", "1.0.0", None)
    compose(file, registry, blobs)
    with pytest.raises(UntrustedArtifact, match=r"iris 1\.0\.0 is not signed"):
        compose(file, registry, blobs, SignaturePolicy.of(REQUIRED))
    registry.sign("iris", "1.0.0", SIGN, **WHO)
    compose(file, registry, blobs, SignaturePolicy.of(REQUIRED))


def test_a_file_without_a_registry_has_no_signature() -> None:
    path, *_ = forest()
    with pytest.raises(UntrustedArtifact, match="is a file without any"):
        FileSource(path, signed=SignaturePolicy.of(REQUIRED))


def test_workers_demand_what_the_settings_do(registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path) -> None:
    push("iris", "1.0.0", None)
    settings = Settings(signing=REQUIRED)
    (wanted,) = RegistrySource(registry, blobs, [parse_reference("iris")]).wanted()
    with pytest.raises(UntrustedArtifact, match="not signed"):
        opener(settings, "", tmp_path / "shared")(wanted.releases[0], OPTIONS)
    path, *_ = forest()
    with pytest.raises(UntrustedArtifact, match="is a file without any"):
        opener(settings, str(path), tmp_path / "shared")


def test_signatures_reach_workers_as_they_are(registry: Registry, blobs: BlobStore, push: Push) -> None:
    push("iris", "1.0.0")
    wanted = tuple(demanding(registry, blobs, "iris").wanted())
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(Prepare(1, wanted)), type=Prepare)
    assert sent.wanted[0].releases[0] == wanted[0].releases[0]
    assert sent.wanted[0].releases[0].signatures[0].key_id == KEY.key_id


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
