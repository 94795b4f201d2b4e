"""Which inference route a path is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keelway.transports.rest.paths import InferencePaths

PATHS = InferencePaths(32)


@pytest.mark.parametrize(
    ("path", "model", "selector", "transport"),
    [
        ("/v2/models/m/infer", "m", None, "rest_v2"),
        ("/v2/models/m/versions/1.0.0/infer", "m", "1.0.0", "rest_v2"),
        ("/v1/models/m/predict", "m", None, "rest_v1"),
        ("/v1/models/m/versions/champion/predict", "m", "champion", "rest_v1"),
        ("/predict", None, None, "rest_v1"),
        ("/invocations", None, None, "rest_mlflow"),
        ("/v1/models/m:predict", "m", None, "rest_tensorflow"),
        ("/v1/models/m/versions/1:predict", "m", "1", "rest_tensorflow"),
        ("/v1/models/m/labels/stable:predict", "m", "stable", "rest_tensorflow"),
    ],
)
def test_inference_routes(path: str, model: str | None, selector: str | None, transport: str) -> None:
    route = PATHS.find(path)
    assert route is not None
    assert (route.model, route.selector, route.transport) == (model, selector, transport)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/v2/models/m",
        "/v2/models/m/infer/",
        "/v2/models//m/infer",
        "/v2/models/m/versions/infer",
        "/v1/models/m",
        "/v1/models/m:classify",
        "/v1/models/m/labels/stable/predict",
        "/v3/models/m/infer",
        "v2/models/m/infer",
        "/predict/",
        "/V2/models/m/infer",
    ],
)
def test_other_paths_are_none(path: str) -> None:
    assert PATHS.find(path) is None


@given(st.text())
def test_any_path_has_an_answer_and_the_same_one_again(path: str) -> None:
    assert PATHS.find(path) == PATHS.find(path)


def test_the_memory_of_paths_is_bounded() -> None:
    paths = InferencePaths(32)
    for number in range(5000):
        paths.find(f"/nowhere/{number}")
    assert len(paths._known) <= 1024
