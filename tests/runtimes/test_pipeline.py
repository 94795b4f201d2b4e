"""Pipelines: members wired by name, checked before they run, run only where needed, closed together."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keelway.errors import CorruptArtifact, InvalidInput, ModelFailed, NotFound, RowsRefused
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import pipeline
from keelway.testing import FakeRuntime
from keelway.types import Array, TensorSpec

USER = TensorSpec("user", "INT64", (-1,))
VECTOR = TensorSpec("vector", "FP32", (-1, 2), ("a", "b"))
SCORE = TensorSpec("score", "FP32", (-1,))
TEXT = TensorSpec("text", "BYTES", (-1,))
ANSWER = {"user": np.array([3, 4])}


def features(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    user = inputs["user"].astype(np.float32)
    return {"vector": np.stack([user, user * 2], axis=1), "text": inputs["user"].astype(str).astype(object)}


def rank(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    return {"score": inputs["vector"].sum(axis=1)}


class Members:
    """Hands out fakes by digest and remembers them."""

    def __init__(self, feature_delay: float = 0, rank_delay: float = 0) -> None:
        self.fakes = {
            "sha256:features": FakeRuntime([USER], [VECTOR, TEXT], features, feature_delay, thread_safe=True),
            "sha256:rank": FakeRuntime([VECTOR], [SCORE], rank, rank_delay),
        }
        self.loaded: list[str] = []

    def __call__(self, model_digest: str) -> Runtime:
        if model_digest not in self.fakes:
            raise NotFound("there is no such member")
        self.loaded.append(model_digest)
        return self.fakes[model_digest]

    @property
    def closed(self) -> list[int]:
        return [fake.closed for fake in self.fakes.values()]


def specs(*tensors: TensorSpec) -> list[dict[str, Any]]:
    return [
        {"name": t.name, "datatype": t.datatype, "shape": list(t.shape), "columns": list(t.columns)} for t in tensors
    ]


def options(**changed: Any) -> dict[str, Any]:
    return {
        "steps": [
            {"name": "features", "model_digest": "sha256:features", "inputs": {"user": "user"}},
            {"name": "rank", "model_digest": "sha256:rank", "inputs": {"vector": "features.vector"}},
        ],
        "outputs": {"result": "rank.score", "label": "features.text"},
        "inputs": specs(USER),
        **changed,
    }


def load(members: Callable[[str], Runtime], manifest: dict[str, Any] | None = None) -> pipeline.PipelineRuntime:
    return pipeline.load(Path(), "sha256:pipeline", manifest or options(), RuntimeOptions(), members)


def test_steps_feed_each_other_and_answer_in_the_order_asked_for() -> None:
    runtime: Runtime = load(Members())
    answer = runtime.run(ANSWER, ["result", "label"])
    assert not inspect.isawaitable(answer)
    assert [array.tolist() for array in answer] == [[9, 12], ["3", "4"]]
    reverse = runtime.run(ANSWER, ["label", "result"])
    assert not inspect.isawaitable(reverse)
    assert [array.tolist() for array in reverse] == [["3", "4"], [9, 12]]


def test_outputs_are_described_under_the_pipelines_names() -> None:
    runtime = load(Members())
    assert runtime.inputs == (USER,)
    assert runtime.outputs == (TensorSpec("result", "FP32", (-1,)), TensorSpec("label", "BYTES", (-1,)))


def test_only_the_steps_and_tensors_that_are_needed_are_asked_for() -> None:
    members = Members()
    runtime = load(members)
    runtime.run(ANSWER, ["label"])
    runtime.run(ANSWER, ["result"])
    assert members.fakes["sha256:rank"].calls == [("score",)]
    assert members.fakes["sha256:features"].calls == [("text",), ("vector",)]


@pytest.mark.parametrize(("feature_delay", "rank_delay"), [(0.001, 0), (0, 0.001), (0.001, 0.001)])
def test_one_member_that_waits_makes_the_answer_awaitable(feature_delay: float, rank_delay: float) -> None:
    runtime = load(Members(feature_delay, rank_delay))

    async def ask() -> Any:
        answer = runtime.run(ANSWER, ["result", "label"])
        assert inspect.isawaitable(answer)
        return await answer

    assert [array.tolist() for array in asyncio.run(ask())] == [[9, 12], ["3", "4"]]


def test_a_member_used_by_two_steps_is_loaded_and_closed_once() -> None:
    members = Members()
    manifest = options()
    manifest["steps"].append({"name": "again", "model_digest": "sha256:rank", "inputs": {"vector": "features.vector"}})
    runtime = load(members, {**manifest, "outputs": {"a": "rank.score", "b": "again.score"}})
    runtime.run(ANSWER, ["a", "b"])
    runtime.close()
    assert members.loaded == ["sha256:features", "sha256:rank"]
    assert members.closed == [1, 1]


def test_a_pipeline_is_thread_safe_only_if_all_its_members_are() -> None:
    members = Members()
    assert not load(members).thread_safe
    members.fakes["sha256:rank"].thread_safe = True
    assert load(members).thread_safe


def test_every_member_is_closed_even_if_one_raises() -> None:
    for failing in ("sha256:features", "sha256:rank"):
        members = Members()
        runtime = load(members)
        other = next(fake for digest, fake in members.fakes.items() if digest != failing)

        def fail() -> None:
            raise RuntimeError("stuck")

        members.fakes[failing].close = fail  # type: ignore[method-assign]
        runtime = load(members)
        with pytest.raises(RuntimeError, match="stuck"):
            runtime.close()
        assert other.closed == 1


def test_closing_twice_closes_members_once() -> None:
    members = Members()
    runtime = load(members)
    runtime.close()
    runtime.close()
    assert members.closed == [1, 1]


def test_members_loaded_before_a_refusal_are_closed() -> None:
    members = Members()
    manifest = options()
    manifest["steps"][1]["model_digest"] = "sha256:gone"
    with pytest.raises(NotFound):
        load(members, manifest)
    assert members.closed == [1, 0]
    members = Members()
    with pytest.raises(InvalidInput):
        load(members, options(outputs={"result": "rank.nothing"}))
    assert members.closed == [1, 1]


@pytest.mark.parametrize("delay", [0, 0.001])
def test_a_member_that_raises_is_named_and_its_text_kept_back(delay: float) -> None:
    # T3
    members = Members(rank_delay=delay)

    def explode(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise ValueError("secret")

    members.fakes["sha256:rank"] = FakeRuntime([VECTOR], [SCORE], explode, delay)
    runtime = load(members)

    async def ask() -> Any:
        answer = runtime.run(ANSWER, ["result"])
        return await answer if inspect.isawaitable(answer) else answer

    with pytest.raises(ModelFailed, match=r"^step 'rank' of the pipeline failed$"):
        asyncio.run(ask())


@pytest.mark.parametrize("delay", [0, 0.001])
def test_a_members_deliberate_error_is_passed_on(delay: float) -> None:
    members = Members()

    def refuse(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise InvalidInput("unknown user")

    members.fakes["sha256:features"] = FakeRuntime([USER], [VECTOR, TEXT], refuse, delay)

    async def ask() -> Any:
        answer = load(members).run(ANSWER, ["result"])
        return await answer if inspect.isawaitable(answer) else answer

    with pytest.raises(InvalidInput, match="unknown user"):
        asyncio.run(ask())


@pytest.mark.parametrize("delay", [0, 0.001])
def test_a_member_that_answers_too_little_is_its_own_fault(delay: float) -> None:
    # T3
    class Short(FakeRuntime):
        def _answer(self, inputs: Mapping[str, Array], outputs: Any) -> list[Array]:
            return []

    members = Members()
    members.fakes["sha256:features"] = Short([USER], [VECTOR, TEXT], features, delay)

    async def ask() -> Any:
        answer = load(members).run(ANSWER, ["result"])
        return await answer if inspect.isawaitable(answer) else answer

    with pytest.raises(ModelFailed, match="step 'features'"):
        asyncio.run(ask())


def step(name: str, digest: str, **inputs: str) -> dict[str, Any]:
    return {"name": name, "model_digest": f"sha256:{digest}", "inputs": inputs}


FIRST = step("features", "features", user="user")

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "self": ({"steps": [step("rank", "rank", vector="rank.score")]}, "comes from 'rank.score', which runs no earlier"),
    "cycle": (
        {"steps": [step("features", "features", user="rank.score"), step("rank", "rank", vector="features.vector")]},
        "which runs no earlier",
    ),
    "unknown step": ({"steps": [step("rank", "rank", vector="feature.vector")]}, "which is unknown"),
    "unknown input": ({"steps": [step("features", "features", user="usr")]}, "which is unknown"),
    "unknown tensor": ({"steps": [FIRST, step("rank", "rank", vector="features.vec")]}, "its source does not answer"),
    "open input": ({"steps": [FIRST, step("rank", "rank")]}, "step 'rank' leaves its input 'vector' open"),
    "surplus input": (
        {"steps": [FIRST, step("rank", "rank", vector="features.vector", bias="user")]},
        "step 'rank' has no input 'bias'",
    ),
    "datatype": ({"steps": [FIRST, step("rank", "rank", vector="features.text")]}, "is FP32, its source BYTES"),
    "datatype of the input": ({"inputs": specs(TensorSpec("user", "INT32", (-1,)))}, "is INT64, its source INT32"),
    "rank": ({"inputs": specs(TensorSpec("user", "INT64", (-1, 1)))}, r"has the shape \[-1\], its source \[-1, 1\]"),
    "size": (
        {
            "inputs": specs(USER, TensorSpec("wide", "FP32", (-1, 3))),
            "steps": [FIRST, step("rank", "rank", vector="wide")],
        },
        "has the shape",
    ),
    "column order": (
        {
            "inputs": specs(USER, TensorSpec("ba", "FP32", (-1, 2), ("b", "a"))),
            "steps": [FIRST, step("rank", "rank", vector="ba")],
        },
        "takes other columns, or another order",
    ),
    "no steps": ({"steps": []}, "no steps or no outputs"),
    "no outputs": ({"outputs": {}}, "no steps or no outputs"),
    "repeated step": ({"steps": [FIRST, FIRST]}, "names that differ"),
    "dotted step": ({"steps": [step("a.b", "features", user="user")]}, "names that differ and have no dot"),
    "nameless step": ({"steps": [step("", "features", user="user")]}, "names that differ"),
    "ambiguous input": (
        {"inputs": specs(USER, TensorSpec("rank.score", "FP32", (-1,)))},
        "reads like a tensor of step",
    ),
    "output of no step": ({"outputs": {"result": "user"}}, "output 'result' comes from no step"),
    "output of no tensor": ({"outputs": {"result": "rank.scores"}}, "output 'result' names a tensor"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wiring_that_does_not_fit_is_refused_when_loaded(case: str) -> None:
    changed, expected = REFUSALS[case]
    members = Members()
    with pytest.raises(InvalidInput, match=expected) as caught:
        load(members, options(**changed))
    assert caught.value.hint
    assert [fake.closed for fake in members.fakes.values()] == [
        members.loaded.count(digest) for digest in members.fakes
    ]


@pytest.mark.parametrize(
    "changed",
    [{"steps": None}, {"steps": [{"name": "a"}]}, {"inputs": [{"name": 1}]}, {"outputs": ["rank.score"]}, {"more": 1}],
    ids=str,
)
def test_options_that_cannot_be_read_are_a_corrupt_artifact(changed: dict[str, Any]) -> None:
    members = Members()
    with pytest.raises(CorruptArtifact):
        load(members, options(**changed))
    assert members.loaded == []


def test_axes_that_are_free_on_one_side_fit() -> None:
    members = Members()
    members.fakes["sha256:features"].outputs = (TensorSpec("vector", "FP32", (-1, -1)), TEXT)
    assert load(members).outputs


def test_an_error_of_a_step_names_the_pipelines_own_input() -> None:
    members = Members()

    def refuse(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        raise RowsRefused.of({1: InvalidInput("unknown user", field="user")})

    members.fakes["sha256:features"] = FakeRuntime([USER], [VECTOR, TEXT], refuse)
    manifest = options(inputs=specs(TensorSpec("who", "INT64", (-1,))))
    manifest["steps"][0]["inputs"] = {"user": "who"}
    with pytest.raises(RowsRefused, match="row 1: unknown user") as caught:
        load(members, manifest).run({"who": ANSWER["user"]}, ["result"])
    assert caught.value.field == caught.value.errors[1].field == "who"


def test_examples_of_members_are_the_pipelines_where_they_feed_its_inputs() -> None:
    members = Members()
    features, rank = members.fakes.values()
    features.examples = {"user": np.array([7])}  # type: ignore[attr-defined]
    rank.examples = {"vector": np.zeros((1, 2))}  # type: ignore[attr-defined]
    manifest = options(inputs=specs(TensorSpec("who", "INT64", (-1,))))
    manifest["steps"][0]["inputs"] = {"user": "who"}
    assert {name: array.tolist() for name, array in load(members, manifest).examples.items()} == {"who": [7]}
    assert load(Members()).examples == {}
