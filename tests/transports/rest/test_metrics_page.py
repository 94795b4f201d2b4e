"""The metrics page: what was served is counted, in both formats that are asked for. # M1 M2"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tests.serving import ROW, TENSORS, Server, Shelf, forest_item, score

from keelway import __version__
from keelway.observe.metrics import METRICS


@pytest.fixture
def server() -> Iterator[Server]:
    shelf = Shelf().put("iris", "1.0.0", forest_item()).want("iris", "1.0.0").serve("m", score)
    with Server(shelf) as running:
        yield running


def test_the_page_parses_and_holds_every_metric_once(server: Server) -> None:
    server.post("/v1/models/m/predict", {"instances": [ROW]})
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = [family.name for family in parse_text(reply.body.decode())]
    assert len(families) == len(set(families))
    assert set(families) == {metric.name.removesuffix("_total") for metric in METRICS}


def test_openmetrics_is_answered_to_whoever_asks_for_it(server: Server) -> None:
    accept = "application/openmetrics-text; version=1.0.0; charset=utf-8, text/plain;version=0.0.4;q=0.5"
    reply = server.get("/metrics", accept=accept)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert reply.body.endswith(b"# EOF\n")
    assert {family.name for family in parse_openmetrics(reply.body.decode())}


def test_no_accept_header_breaks_the_page(server: Server) -> None:
    for accept in (
        "",
        "*/*",
        "application/openmetrics-text; version=x",
        "application/openmetrics-text; version=99.99.99",
        "application/openmetrics-text; version=1.0.0; escaping=nonsense",
        "text/plain; version=1.0.0; escaping=allow-utf-8",
        "text/plain; version=x",
        ";;;===,,,",
    ):
        reply = server.get("/metrics", accept=accept)
        assert reply.status == 200, accept
        assert b"ml_build_info" in reply.body


def test_requests_are_counted_by_route_family_and_outcome(server: Server) -> None:
    for path, body in (
        ("/v2/models/m/infer", TENSORS),
        ("/v1/models/m/predict", {"instances": [ROW]}),
        ("/v1/models/m/predict", {"instances": [ROW]}),
        ("/v1/models/m:predict", {"instances": [ROW]}),
        ("/v1/models/m/predict", {"instances": [{"age": None, "income": 1.0}]}),
        ("/v2/models/nobody/infer", TENSORS),
    ):
        server.post(path, body)
    for transport, code, count in (
        ("rest_v2", "OK", 1),
        ("rest_v1", "OK", 2),
        ("rest_tensorflow", "OK", 1),
        ("rest_v1", "INVALID_ARGUMENT", 1),
    ):
        labels = {"model": "m", "version": "1.0.0", "transport": transport, "code": code}
        assert server.metric("ml_requests_total", **labels) == count, labels
    # A name that a caller made up never becomes a label.
    assert server.metric("ml_requests_total", model="", code="NOT_FOUND") == 1
    assert server.metric("ml_requests_total", model="nobody") == 0
    assert server.metric("ml_validation_failures_total", model="m", field="age") == 1
    assert server.metric("ml_request_duration_seconds_count", model="m") == 5
    assert server.metric("ml_batch_size_sum", model="m") == 4
    assert server.metric("ml_build_info", version=__version__) == 1


def test_rows_refused_beside_good_ones_are_counted(server: Server) -> None:
    assert server.post("/v1/models/m/predict", {"instances": [ROW, {"age": 1.0}]}).status == 200
    assert server.metric("ml_rows_refused_total", model="m") == 1
    assert server.metric("ml_validation_failures_total", model="m", field="income") == 1


def test_stages_are_timed_for_some_requests_and_a_page_of_a_new_server_has_no_made_up_zeros(server: Server) -> None:
    page = server.get("/metrics").body.decode()
    assert "ml_requests_total{" not in page
    for _ in range(32):
        server.post("/v1/models/iris/predict", {"instances": [[5.1, 3.5, 1.4, 0.2]]})
    for stage in ("parse", "bind", "validate", "run", "encode"):
        assert server.metric("ml_stage_duration_seconds_count", model="iris", stage=stage) == 2


def test_the_request_that_asks_for_the_page_is_no_inference(server: Server) -> None:
    assert [server.in_flight(), server.in_flight()] == [0, 0]
