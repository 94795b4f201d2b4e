from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from keelway.artifacts.onnx_files import TENSOR_FIELDS, confine, external_locations
from keelway.errors import CorruptArtifact, InvalidInput, NotFound


def tensor(location: str | None, name: str = "w", *entries: tuple[str, str]) -> TensorProto:
    """A tensor; external if it has a location."""
    made = numpy_helper.from_array(np.arange(4, dtype=np.float32), name)
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        for key, value in (*entries, ("location", location), ("offset", "0"), ("length", "16")):
            made.external_data.add(key=key, value=value)
    return made


def sparse(values: str | None, indices: str | None) -> Any:
    return helper.make_sparse_tensor(tensor(values), tensor(indices), [10])


def graph(*nodes: Any, initializers: Any = (), sparse_initializers: Any = ()) -> Any:
    value = helper.make_tensor_value_info
    return helper.make_graph(
        list(nodes) or [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [4])],
        [value("y", TensorProto.FLOAT, [4])],
        initializer=list(initializers),
        sparse_initializer=list(sparse_initializers),
    )


def save(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def constant(location: str) -> Any:
    return helper.make_node("Constant", [], ["c"], value=tensor(location))


def branches(location: str) -> Any:
    return helper.make_node(
        "If", ["x"], ["y"], then_branch=graph(constant(location)), else_branch=graph(initializers=[tensor(location)])
    )


EVERYWHERE = {
    "initializer": lambda: helper.make_model(graph(initializers=[tensor(None), tensor("f")])),
    "sparse-values": lambda: helper.make_model(graph(sparse_initializers=[sparse("f", None)])),
    "sparse-indices": lambda: helper.make_model(graph(sparse_initializers=[sparse(None, "f")])),
    "attribute": lambda: helper.make_model(graph(constant("f"))),
    "attribute-list": lambda: helper.make_model(
        graph(helper.make_node("N", [], ["y"], many=[tensor(None), tensor("f")]))
    ),
    "sparse-attribute": lambda: helper.make_model(graph(helper.make_node("N", [], ["y"], value=sparse(None, "f")))),
    "subgraph": lambda: helper.make_model(graph(branches("f"))),
    "subgraph-of-subgraph": lambda: helper.make_model(
        graph(helper.make_node("If", ["x"], ["y"], then_branch=graph(branches("f")), else_branch=graph()))
    ),
    "graph-list": lambda: helper.make_model(
        graph(helper.make_node("N", [], ["y"], graphs=[graph(), graph(constant("f"))]))
    ),
    "function": lambda: helper.make_model(
        graph(),
        functions=[helper.make_function("d", "F", ["x"], ["c"], [constant("f")], [helper.make_opsetid("", 17)])],
    ),
    "training": lambda: trained(),
    "not-marked-external": lambda: unmarked(),
    "location-after-other-keys": lambda: helper.make_model(graph(initializers=[tensor("f", "w", ("checksum", "x"))])),
}


def trained() -> Any:
    made = helper.make_model(graph())
    made.training_info.add(algorithm=graph(), initialization=graph(constant("f")))
    return made


def unmarked() -> Any:
    made = tensor("f")
    made.ClearField("data_location")
    return helper.make_model(graph(initializers=[made]))


@pytest.mark.parametrize("make", EVERYWHERE.values(), ids=EVERYWHERE.keys())
def test_a_location_is_found_wherever_a_tensor_may_be(path: Path, make: Any) -> None:
    assert external_locations(save(path, make())) == ("f",)


def messages(descriptor: Descriptor, seen: dict[str, Descriptor]) -> dict[str, Descriptor]:
    if descriptor.name not in seen:
        seen[descriptor.name] = descriptor
        for field in descriptor.fields:
            if field.message_type is not None:
                messages(field.message_type, seen)
    return seen


def test_the_table_of_fields_is_that_of_onnx_proto() -> None:
    """Fails when ONNX grows a new place for tensors, which the walk would not see."""
    every = messages(onnx.ModelProto.DESCRIPTOR, {})

    def leads_to_tensor(name: str) -> bool:
        return "TensorProto" in messages(every[name], {})

    expected = {
        name: {
            field.number: field.message_type.name
            for field in descriptor.fields
            if field.message_type is not None and leads_to_tensor(field.message_type.name)
        }
        for name, descriptor in every.items()
        if leads_to_tensor(name) and name != "TensorProto"
    }
    assert {name: dict(fields) for name, fields in TENSOR_FIELDS.items() if name != "TensorProto"} == expected
    assert onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"].number == 13


def test_a_model_saved_by_onnx_with_external_data_is_confined(tmp_path: Path) -> None:
    model = helper.make_model(graph(initializers=[tensor(None, "w"), tensor(None, "v")]))
    path = tmp_path / "model.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert confine(path, tmp_path) == ("weights.bin",)


def test_a_model_without_external_data_is_confined_at_no_cost(path: Path) -> None:
    assert confine(save(path, helper.make_model(graph(initializers=[tensor(None)]))), path.parent) == ()


def forest(count: int) -> Any:
    """A node with long lists of unpacked floats and integers, negative and large ones among them."""
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["x"],
        ["y"],
        values=[0.5 * index for index in range(count)],
        ids=[(-1) ** index * index * 2**40 for index in range(count)],
        modes=["BRANCH_LEQ"] * count,
    )
    return helper.make_model(graph(node, constant("f")))


def test_long_lists_of_numbers_hide_nothing(path: Path) -> None:
    assert external_locations(save(path, forest(2000))) == ("f",)


@pytest.mark.parametrize(
    "location",
    [
        "/etc/passwd",
        "../secret",
        "a/../../secret",
        "",
        ".",
        "C:\\x",
        "*/_ORT_MEM_ADDR_/*",
        "a\0b",
        "file:///etc/passwd",
    ],
)
def test_a_location_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "model").mkdir()
    path = save(tmp_path / "model" / "model.onnx", helper.make_model(graph(initializers=[tensor(location)])))
    with pytest.raises(CorruptArtifact):
        confine(path, tmp_path / "model")


def test_a_location_that_is_missing_a_link_a_folder_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "w").write_bytes(bytes(16))
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "outside" / "w")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "away").symlink_to(tmp_path / "outside")
    (folder / "sub" / "w").write_bytes(bytes(16))
    path = folder / "model.onnx"
    for location in ("missing", "link", "dangling", "sub", "away/w", "sub/w/x"):
        save(path, helper.make_model(graph(initializers=[tensor(location)])))
        with pytest.raises(CorruptArtifact):
            confine(path, folder)
    save(path, helper.make_model(graph(initializers=[tensor("sub/w")])))
    assert confine(path, folder) == ("sub/w",)


def test_locations_are_relative_to_the_onnx_file_and_it_must_be_inside(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w").write_bytes(bytes(16))
    path = save(tmp_path / "sub" / "model.onnx", helper.make_model(graph(initializers=[tensor("w")])))
    assert confine(path, tmp_path) == ("w",)
    with pytest.raises(InvalidInput):
        confine(path, tmp_path / "elsewhere")


def test_an_onnx_file_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "outside" / "w").write_bytes(bytes(16))
    save(tmp_path / "outside" / "model.onnx", helper.make_model(graph(initializers=[tensor("w")])))
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "outside")
    for path in ("sub/model.onnx", "../outside/model.onnx"):
        with pytest.raises(CorruptArtifact):
            confine(tmp_path / "model" / path, tmp_path / "model")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def model(*graph_parts: bytes) -> bytes:
    return b"\x08\x08" + field(7, b"".join(graph_parts))


def entry(key: bytes, value: bytes) -> bytes:
    return field(13, field(1, key) + field(2, value))


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x08\xba\x80\x00" + varint(len(field(5, entry(b"location", b"f")))) + field(5, entry(b"location", b"f")),
        model(field(5, field(13, field(2, b"f") + field(1, b"location")))),
        model(field(5, field(13, field(1, b"offset") + field(1, b"location") + field(2, b"x") + field(2, b"f")))),
        model(field(5, entry(b"location", b"f"))) + field(7, b""),
        model(field(1, field(5, field(5, entry(b"location", b"f")) + field(5, b"")))),
        field(7, field(5, entry(b"location", b"f"))) + b"\x08\x08",
    ],
    ids=["overlong-tag", "value-first", "fields-twice", "graph-twice", "tensor-twice", "out-of-order"],
)
def test_unusual_spellings_that_protobuf_accepts_hide_nothing(path: Path, data: bytes) -> None:
    onnx.ModelProto.FromString(data)
    path.write_bytes(data)
    assert external_locations(path) == ("f",)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x08",
        b"\x3a",
        b"\x3a\x05abc",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x3a" + b"\xff" * 9 + b"\x01",
        b"\x3b\x3c" + model(),
        b"\x00\x00" + model(),
        b"\xba\x80\x80\x80\x10\x00" + model(),
        model(field(5, entry(b"location", b"\xff\xfe"))),
        model(field(5, entry(b"location", b"x" * 5000))),
        model(b"\x0d\x00\x00"),
        b"\x89PNG\r\n\x1a\n",
        b"\x1c\0\0\0ORTM" + bytes(40),
    ],
)
def test_garbage_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact):
        external_locations(path)


def test_a_model_nested_beyond_protobufs_own_limit_is_refused_at_once(path: Path) -> None:
    nested = b""
    for _ in range(20_000):
        nested = field(1, field(5, field(6, nested)))
        if len(nested) > 500_000:
            break
    path.write_bytes(model(nested))
    with pytest.raises(CorruptArtifact):
        external_locations(path)


def test_a_missing_file_is_not_found_and_a_link_is_not_followed(path: Path) -> None:
    with pytest.raises(NotFound):
        external_locations(path)
    path.symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput):
        external_locations(path)


def by_onnx(data: bytes) -> set[str]:
    """The locations as the onnx package sees them, by walking its own parsed messages."""

    def walk(message: Any) -> Iterator[str]:
        if message.DESCRIPTOR.name == "TensorProto":
            yield from (item.value for item in message.external_data if item.key == "location")
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                for child in value if descriptor.is_repeated else [value]:
                    yield from walk(child)

    return set(walk(onnx.ModelProto.FromString(data)))


MODELS = [make().SerializeToString() for make in EVERYWHERE.values()] + [forest(30).SerializeToString()]
FULL = graph(branches("a"), constant("b"), initializers=[tensor("c/d")], sparse_initializers=[sparse("e", "f")])
MODELS.append(helper.make_model(FULL).SerializeToString())


@pytest.mark.parametrize("index", range(len(MODELS)))
def test_the_walk_agrees_with_the_onnx_package(path: Path, index: int) -> None:
    path.write_bytes(MODELS[index])
    assert set(external_locations(path)) == by_onnx(MODELS[index])


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sound=st.sampled_from(MODELS),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), min_size=1, max_size=3),
)
def test_whatever_the_onnx_package_still_reads_in_a_damaged_model_the_walk_sees(
    tmp_path: Path, sound: bytes, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(sound)
    for position, value in changes:
        start = position % len(data)
        data[start : start + len(value)] = value
    path = tmp_path / "damaged.onnx"
    path.write_bytes(data)
    try:
        seen = set(external_locations(path))
    except CorruptArtifact:
        return
    try:
        expected = by_onnx(bytes(data))
    except Exception:  # noqa: BLE001 -- whatever the package's own parser raises: it will not load this
        return
    assert seen >= expected


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_answered(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.onnx"
    path.write_bytes(model(data))
    try:
        external_locations(path)
    except CorruptArtifact:
        return
