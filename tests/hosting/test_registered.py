"""Models of the registry as a source: aliases move under references, artifacts are verified. # S4 S5 C1"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.serving import Server, forest, wait_until

from keelway.artifacts.blobs import BlobStore
from keelway.artifacts.manifest import Manifest
from keelway.artifacts.materialise import put_manifest, store_folder
from keelway.contract.constraints import Constraint, Policy
from keelway.contract.names import parse_reference
from keelway.errors import CorruptArtifact, FailedPrecondition, NotFound, Unavailable
from keelway.hosting import artifacts as hosted
from keelway.hosting.registered import RegistrySource
from keelway.ports import RuntimeOptions
from keelway.registry.store import Registry

WHO = {"who": "ada", "why": "a test"}
ROWS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the private copies of artifacts are made."""
    folder = tmp_path / "copies"
    folder.mkdir()
    made = hosted.mkdtemp
    monkeypatch.setattr(hosted, "mkdtemp", lambda prefix: made(prefix=prefix, dir=folder))
    return folder


def source(registry: Registry, blobs: BlobStore, *references: str) -> RegistrySource:
    return RegistrySource(registry, blobs, [parse_reference(reference) for reference in references])


def version(server: Server, selector: str = "") -> str:
    """The version that answers, or the status where none does."""
    path = f"/v1/models/iris/versions/{selector}/predict" if selector else "/v1/models/iris/predict"
    reply = server.post(path, ROWS)
    return str(reply.json["model_version"] if reply.status == 200 else reply.status)


def test_a_name_follows_its_champion(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str], copies: Path
) -> None:
    first, second = push("iris", "1.0.0"), push("iris", "1.1.0")
    with Server(source(registry, blobs, "iris")) as server:
        document = server.post("/v1/models/iris/predict", ROWS).json
        assert (document["model_version"], document["model_digest"]) == ("1.0.0", first)
        assert document["predictions"] == [0]
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        wait_until(lambda: version(server) == "1.1.0", "the new champion")
        assert server.post("/v1/models/iris/predict", ROWS).json["model_digest"] == second
        assert version(server, "champion") == "1.1.0"
        wait_until(lambda: len(list(copies.iterdir())) == 1, "the old copy to be removed")
    assert list(copies.iterdir()) == []


def test_every_alias_of_a_followed_model_is_live(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0")
    with Server(source(registry, blobs, "iris")) as server:
        assert version(server, "challenger") == "404"
        registry.set_alias("iris", "challenger", "1.1.0", **WHO)
        wait_until(lambda: version(server, "challenger") == "1.1.0", "the challenger")
        assert (version(server), version(server, "1.1.0")) == ("1.0.0", "1.1.0")
        registry.remove_alias("iris", "challenger", **WHO)
        wait_until(lambda: version(server, "challenger") == "404", "the challenger to go")


@pytest.mark.parametrize(("reference", "after"), [("iris@1.0.0", "1.0.0"), ("iris@blue", "1.1.0")])
def test_a_version_stays_and_an_alias_is_followed(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str], reference: str, after: str
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0")
    registry.set_alias("iris", "blue", "1.0.0", **WHO)
    with Server(source(registry, blobs, reference)) as server:
        assert version(server) == "1.0.0"
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        registry.set_alias("iris", "blue", "1.1.0", **WHO)
        wait_until(lambda: server.app._fleet._token == (registry.state_token(), 1), "the server to look")
        assert version(server) == after


def test_a_range_follows_the_highest_version_in_it_as_soon_as_it_is_pushed(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:  # S1
    push("iris", "1.9.0")
    with Server(source(registry, blobs, "iris@^1.2")) as server:
        assert version(server) == "1.9.0"
        push("iris", "2.0.0")
        push("iris", "1.11.0-rc.1")
        push("iris", "1.10.0")
        wait_until(lambda: version(server) == "1.10.0", "the server to follow")
        assert version(server, "2.0.0") == "404"


def test_callers_may_ask_for_a_range_of_the_versions_served(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:  # S1
    for number in ("1.9.0", "1.10.0", "2.0.0"):
        push("iris", number)
    with Server(source(registry, blobs, "iris@1.9.0", "iris@1.10.0", "iris@2.0.0")) as server:
        asked = {selector: version(server, selector) for selector in ("^1.2", "%5E1.2", "~1.9", "%3E=1.2", "^3", "^x")}
        assert asked == {
            "^1.2": "1.10.0", "%5E1.2": "1.10.0", "~1.9": "1.9.0", "%3E=1.2": "2.0.0", "^3": "404", "^x": "404",
        }  # fmt: skip
        assert server.get("/v2/models/iris").json["versions"] == ["1.9.0", "1.10.0", "2.0.0"]
        (listed,) = server.get("/v1/models").json["models"]
        assert listed["versions"] == ["1.9.0", "1.10.0", "2.0.0"]


def test_two_references_to_one_model_are_one_model_of_two_versions(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0")
    (wanted,) = source(registry, blobs, "iris@1.1.0", "iris").wanted()
    assert wanted.default == "1.1.0"
    assert sorted(release.version for release in wanted.releases) == ["1.0.0", "1.1.0"]
    assert wanted.aliases == {"champion": "1.0.0"}


def test_a_damaged_artifact_never_answers_and_the_old_version_goes_on(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str], tmp_path: Path, copies: Path
) -> None:
    push("iris", "1.0.0")
    push("iris", "1.1.0")
    with Server(source(registry, blobs, "iris")) as server:
        (damaged,) = (
            path for path in (tmp_path / "artifacts").rglob("*") if path.is_file() and path.read_bytes() == b"1.1.0"
        )
        damaged.chmod(0o600)
        damaged.write_bytes(b"1.1.1")
        registry.set_alias("iris", "champion", "1.1.0", **WHO)
        state = wait_until(
            lambda: {entry["version"]: entry for entry in server.post("/v2/repository/index", {}).json}.get("1.1.0"),
            "the server to see the new champion",
        )
        wait_until(lambda: server.app._fleet._failures, "the load to fail")
        state = server.post("/v2/repository/index", {}).json[0]
        assert (state["version"], state["state"]) == ("1.1.0", "UNAVAILABLE")
        assert state["reason"] not in ("", "loading")
        assert (version(server), server.get("/health/ready").status) == ("1.0.0", 200)
        assert len(list(copies.iterdir())) == 1, "the copy that could not be verified was left behind"


def test_a_new_policy_is_enforced_without_a_restart(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    with Server(source(registry, blobs, "iris")) as server:
        assert version(server) == "1.0.0"
        policy = Policy(constraints=(Constraint("sepal_length", maximum=5.0),))
        registry.set_policy("iris", "1.0.0", policy, **WHO, expected_revision=1)
        wait_until(lambda: version(server) == "400", "the policy")
        assert server.post("/v1/models/iris/predict", ROWS).json["field"] == "sepal_length"


def test_load_follows_another_model(registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]) -> None:
    push("iris", "1.0.0")
    push("other", "3.0.0")
    control = {"allow_model_control": True, "drain_delay": 0.0}
    with Server(source(registry, blobs, "iris"), serving=control) as server:
        assert server.post("/v1/models/other/predict", ROWS).status == 404
        assert server.post("/v2/repository/models/other/load", {}).status == 200
        assert server.post("/v1/models/other/predict", ROWS).json["model_version"] == "3.0.0"
        assert server.post("/v2/repository/models/nobody/load", {}).status == 404


def test_a_reference_to_nothing_is_refused_at_the_start(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    for reference in ("nobody", "iris@9.9.9", "iris@nothing"):
        with pytest.raises(NotFound), Server(source(registry, blobs, reference)):
            pass


@pytest.mark.parametrize("reference", ["iris@1.0.0", "iris@blue", "iris@^1.0"])
def test_a_reference_that_names_nothing_any_more_keeps_what_it_named_and_holds_up_no_other(
    registry: Registry,
    blobs: BlobStore,
    push: Callable[[str, str], str],
    reference: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "keelway.hosting")
    push("iris", "1.0.0")
    push("iris", "2.0.0")
    push("other", "1.0.0")
    push("other", "1.1.0")
    registry.set_alias("iris", "champion", "2.0.0", **WHO)
    registry.set_alias("iris", "blue", "1.0.0", **WHO)

    def other(server: Server) -> object:
        return server.post("/v1/models/other/predict", ROWS).json["model_version"]

    with Server(source(registry, blobs, reference, "other")) as server:
        registry.remove_alias("iris", "blue", **WHO)
        registry.archive("iris", "1.0.0", **WHO)
        for promoted in ("1.1.0", "1.0.0", "1.1.0"):
            registry.set_alias("other", "champion", promoted, **WHO)
            wait_until(lambda: other(server) == promoted, "the promotion of the other model")  # noqa: B023
        assert (version(server), server.get("/health/ready").json) == ("1.0.0", {"ready": True, "stale": False})
        entry = next(one for one in server.post("/v2/repository/index", {}).json if one["name"] == "iris")
        assert (entry["version"], entry["state"]) == ("1.0.0", "READY")
        assert entry["reason"].startswith(f"{reference} names nothing any more: ")
        assert caplog.text.count("names nothing any more") == 1
        assert "cannot be read" not in caplog.text
        registry.restore("iris", "1.0.0", **WHO)
        registry.set_alias("iris", "blue", "1.0.0", **WHO)
        wait_until(lambda: f"{reference} names a version again" in caplog.text, "the reference to be found again")
        wait_until(lambda: not server.post("/v2/repository/index", {}).json[0]["reason"], "the index to say so")


def test_an_archived_version_is_refused_at_the_start(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    push("iris", "2.0.0")
    registry.set_alias("iris", "champion", "2.0.0", **WHO)
    registry.archive("iris", "1.0.0", **WHO)
    with pytest.raises(FailedPrecondition), Server(source(registry, blobs, "iris", "iris@1.0.0")):
        pass


def test_a_registry_that_is_away_is_no_reference_that_names_nothing(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push("iris", "1.0.0")
    models = source(registry, blobs, "iris@1.0.0")
    models.wanted()

    def away(name: str, selector: str | None = None) -> None:
        raise Unavailable("away")

    monkeypatch.setattr(registry, "resolve", away)
    with pytest.raises(Unavailable):
        models.wanted()


def test_the_token_changes_with_the_registry_and_with_what_is_followed(
    registry: Registry, blobs: BlobStore, push: Callable[[str, str], str]
) -> None:
    push("iris", "1.0.0")
    push("other", "1.0.0")
    models = source(registry, blobs, "iris")
    before = models.token()
    assert models.token() == before
    models.follow("other")
    followed = models.token()
    models.follow("other")
    push("iris", "1.1.0")
    assert len({before, followed, models.token()}) == 3
    assert len(models.wanted()) == 2


def test_a_failed_opening_removes_its_copy(registry: Registry, blobs: BlobStore, tmp_path: Path, copies: Path) -> None:
    _, signature, *_ = forest()
    folder = tmp_path / "rotten"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"no model")
    digest = put_manifest(blobs, Manifest(store_folder(blobs, folder), signature, "onnx"))
    registry.push("rotten", "1.0.0", digest, **WHO)
    models = source(registry, blobs, "rotten")
    (wanted,) = models.wanted()
    with pytest.raises(CorruptArtifact):
        models.open(wanted.releases[0], RuntimeOptions())
    assert list(copies.iterdir()) == []
