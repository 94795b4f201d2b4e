"""A small builder of ONNX graphs over tables: named columns of packed tensors, and the matrices made of them.

It knows ONNX and nothing of any model. The translators in this package call it; ``graph.model()`` is the result.
A table is a list of columns, each a position in some tensor of shape [-1, n]: choosing, reordering and joining columns
costs nothing until a matrix is asked for, and then one Gather per tensor, or none where the whole tensor is meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from keelway.types import Array, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

#: The arithmetic of a graph: the datatype of every number between the inputs and the outputs.
Number = Literal["FP32", "FP64"]

#: ai.onnx 20 has StringConcat, ai.onnx.ml 5 has TreeEnsemble in double precision. ONNX Runtime 1.23, the oldest that
#: keelway takes, has both.
OPSETS: Final[Mapping[str, int]] = {"": 20, "ai.onnx.ml": 5}
IR_VERSION: Final = 9

#: How a missing text stands in a tensor: ONNX strings have no missing value.
MISSING_TEXT: Final = ""


class NotTranslated(Exception):
    """An estimator, or a setting of one, that these translators do not know. The text is written for the report."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the tensor ``tensor``."""

    tensor: str
    position: int


#: Columns in order: what a scikit-learn step takes as X.
Table = tuple[Column, ...]


class Graph:
    """A graph in the making. ``number`` is the datatype its arithmetic is done in; ``missing`` are the columns of
    ``inputs`` in which a value may be missing.

    Names of tensors are generated; ``datatypes`` and ``widths`` hold the datatype and the number of columns of every
    tensor that a table may refer to.
    """

    def __init__(self, inputs: Sequence[TensorSpec], number: Number, missing: Collection[str] = ()) -> None:
        self.number: Number = number
        self._may_miss = {
            Column(spec.name, position)
            for spec in inputs
            for position, column in enumerate(spec.columns)
            if column in missing
        }
        self.inputs = tuple(inputs)
        self.datatypes: dict[str, str] = {spec.name: spec.datatype for spec in inputs}
        self.widths: dict[str, int] = {spec.name: spec.shape[1] for spec in inputs}
        self._names = {spec.name for spec in inputs}
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._matrices: dict[tuple[Table, str], str] = {}
        self._outputs: list[tuple[str, TensorSpec]] = []

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.number == "FP32" else np.float64)

    @contextmanager
    def computing_in(self, number: Number) -> Iterator[None]:
        """Arithmetic in ``number`` within the block, whatever it is outside."""
        outside: Number = self.number
        self.number = number
        try:
            yield
        finally:
            self.number = outside

    # Nodes

    def name(self, stem: str) -> str:
        """A tensor name that is not taken yet."""
        number = len(self._names)
        while f"{stem}_{number}" in self._names:
            number += 1
        self._names.add(f"{stem}_{number}")
        return f"{stem}_{number}"

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output; the name of that output."""
        from onnx import helper

        output = self.name(kind.lower())
        self._nodes.append(helper.make_node(kind, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, value: Any, dtype: np.dtype[Any] | type | None = None) -> str:
        """An initializer holding ``value``; the graph's number type unless ``dtype`` says otherwise. Equal ones are
        shared."""
        from onnx import numpy_helper

        array = np.asarray(value, dtype=self.dtype if dtype is None else dtype)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.dtype != object else None
        if key is not None and key in self._constants:
            return self._constants[key]
        name = self.name("constant")
        self._initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        if key is not None:
            self._constants[key] = name
        return name

    def integers(self, value: Any) -> str:
        return self.constant(value, np.int64)

    def cast(self, tensor: str, datatype: str) -> str:
        return self.op("Cast", tensor, to=onnx_type(datatype))

    def as_number(self, tensor: str, datatype: str = "") -> str:
        """``tensor``, of ``datatype``, in the graph's number type, with the width it is known to have."""
        if datatype == self.number:
            return tensor
        result = self.cast(tensor, self.number)
        if tensor in self.widths:
            self.widths[result] = self.widths[tensor]
        return result

    def table_of(self, tensor: str, width: int, datatype: str | None = None) -> Table:
        """``tensor``, of shape [-1, width], as a table."""
        self.datatypes[tensor] = datatype or self.number
        self.widths[tensor] = width
        return tuple(Column(tensor, position) for position in range(width))

    # Tables

    def is_text(self, column: Column) -> bool:
        return self.datatypes[column.tensor] == "BYTES"

    def may_miss(self, column: Column) -> bool:
        """Whether an empty text in ``column`` stands for a missing one. Elsewhere it is a text like any other."""
        return column in self._may_miss

    def matrix(self, table: Table, datatype: str | None = None) -> str:
        """The columns of ``table`` as one tensor of shape [-1, len(table)], in the graph's number type or
        ``datatype``. Raises ``NotTranslated`` if text and numbers meet."""
        datatype = datatype or self.number
        if any(self.is_text(column) != (datatype == "BYTES") for column in table):
            raise NotTranslated("a step takes text where it was expected to take numbers, or the reverse")
        if not table:
            raise NotTranslated("a step takes no columns")
        key = (table, datatype)
        if key not in self._matrices:
            parts = [
                self._part(tensor, [column.position for column in columns], datatype)
                for tensor, columns in groupby(table, key=lambda column: column.tensor)
            ]
            self._matrices[key] = parts[0] if len(parts) == 1 else self.op("Concat", *parts, axis=1)
        return self._matrices[key]

    def _part(self, tensor: str, positions: list[int], datatype: str) -> str:
        whole = tuple(Column(tensor, position) for position in range(self.widths[tensor]))
        key = (whole, datatype)
        if key not in self._matrices:
            self._matrices[key] = tensor if self.datatypes[tensor] == datatype else self.cast(tensor, datatype)
        if positions == list(range(self.widths[tensor])):
            return self._matrices[key]
        return self.op("Gather", self._matrices[key], self.integers(positions), axis=1)

    # Inlining and the result

    def inline(self, model: ModelProto, source: str) -> list[tuple[str, str, tuple[int, ...]]]:
        """Append the nodes of ``model``, a graph of one input, fed by ``source``.

        Answers its outputs: new name, datatype and shape (-1 for a free axis). Raises ``NotTranslated`` if the graph
        holds subgraphs or opsets newer than this one's.
        """
        for opset in model.opset_import:
            if opset.version > OPSETS.get(opset.domain, 1) and opset.domain in OPSETS:
                raise NotTranslated(f"a step needs opset {opset.version} of '{opset.domain or 'ai.onnx'}'")
        names = {"": "", model.graph.input[0].name: source}
        for initializer in model.graph.initializer:
            names[initializer.name] = self.name("constant")
            initializer.name = names[initializer.name]
            self._initializers.append(initializer)
        for node in model.graph.node:
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                raise NotTranslated(f"a step needs the control flow operator {node.op_type}")
            for output in node.output:
                names[output] = self.name(node.op_type.lower())
            inputs, outputs = [names[name] for name in node.input], [names[name] for name in node.output]
            del node.input[:], node.output[:]
            node.input.extend(inputs)
            node.output.extend(outputs)
            node.name = ""
            self._nodes.append(node)
        return [(names[value.name], *tensor_of(value)) for value in model.graph.output]

    def output(self, tensor: str, spec: TensorSpec) -> None:
        """Make ``tensor`` an output named and shaped as ``spec`` says."""
        self._outputs.append((tensor, spec))

    def model(self) -> ModelProto:
        """The finished model: outputs under their own names, unused nodes and initializers left out."""
        from onnx import helper

        nodes = [*self._nodes]
        for tensor, spec in self._outputs:
            nodes.append(helper.make_node("Identity", [tensor], [spec.name]))
        nodes = _used(
            _without_identities(nodes, {spec.name for spec in self.inputs}), [s.name for _, s in self._outputs]
        )
        needed = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "keelway",
            [_value_info(spec) for spec in self.inputs],
            [_value_info(spec) for _, spec in self._outputs],
            [tensor for tensor in self._initializers if tensor.name in needed],
        )
        domains = {node.domain for node in nodes} | {""}
        opsets = [helper.make_opsetid(domain, OPSETS.get(domain, 1)) for domain in sorted(domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="keelway")


def onnx_type(datatype: str) -> int:
    """The ONNX element type of an Open Inference Protocol datatype."""
    return _ONNX_TYPES[datatype]


def tensor_of(value: Any) -> tuple[str, tuple[int, ...]]:
    """Datatype and shape of a ValueInfoProto that is a tensor; a free or unnamed axis is -1."""
    tensor = value.type.tensor_type
    datatype = next(name for name, number in _ONNX_TYPES.items() if number == tensor.elem_type)
    return datatype, tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)


def strings(values: Sequence[str] | Array) -> Array:
    """An object array of text, as ONNX's helpers want it."""
    array = np.empty(len(values), dtype=object)
    array[:] = [str(value) for value in values]
    return array


_ONNX_TYPES: Final[Mapping[str, int]] = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BYTES": 8,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
}


def _value_info(spec: TensorSpec) -> Any:
    from onnx import helper

    shape = ["rows" if size == -1 else size for size in spec.shape]
    return helper.make_tensor_value_info(spec.name, onnx_type(spec.datatype), shape)


def _without_identities(nodes: list[NodeProto], inputs: set[str]) -> list[NodeProto]:
    """Let each Identity that names an output be replaced by the node that makes it, where that node is its own."""
    producers = {node.output[0]: node for node in nodes if len(node.output) == 1}
    renamed: dict[str, str] = {}
    kept = []
    for node in nodes:
        source = node.input[0] if node.op_type == "Identity" else ""
        if source in producers and source not in renamed and source not in inputs:
            renamed[source] = node.output[0]
        else:
            kept.append(node)
    for node in kept:
        for names in (node.input, node.output):
            changed = [renamed.get(name, name) for name in names]
            del names[:]
            names.extend(changed)
    return kept


def _used(nodes: list[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
