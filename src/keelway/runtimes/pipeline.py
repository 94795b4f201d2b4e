"""Several models as one servable: each step's inputs come from the pipeline's inputs or from steps before it.

Retrieve -> features -> rank, or decode -> detect -> suppress. The wiring is checked against the members' own tensors
when the pipeline is loaded, so a run only passes arrays on. The digest of a pipeline covers its members because their
digests are in its options. ``hosting`` loads it by its entry point.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from keelway.errors import CorruptArtifact, InvalidInput, KeelwayError, ModelFailed, RowsRefused
from keelway.ports import MemberLoader, Runtime, RuntimeOptions
from keelway.types import Array, TensorSpec


class _Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``inputs`` maps each tensor of the member to its source: a pipeline input, or ``<step>.<tensor>``."""

    name: str
    model_digest: str
    inputs: dict[str, str]


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    steps: tuple[_Step, ...]
    outputs: dict[str, str]
    inputs: tuple[TensorSpec, ...]


class _Call(NamedTuple):
    """One run of a member: ``take`` pairs its tensors with the values they come from, ``give`` its outputs likewise."""

    step: str
    runtime: Runtime
    take: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]
    give: tuple[str, ...]


class _Plan(NamedTuple):
    """The calls that the wanted outputs need, in order, and the values that answer them."""

    calls: tuple[_Call, ...]
    answers: tuple[str, ...]


class _Pending(NamedTuple):
    """A call whose answer has to be awaited."""

    call: _Call
    answer: Awaitable[Sequence[Array]]


class PipelineRuntime:
    """Loaded members and their wiring as one ``Runtime``. It owns the members: ``close`` closes them all."""

    def __init__(self, declared: _Options, members: Mapping[str, Runtime], closing: ExitStack) -> None:
        """``members`` maps each step's name to its runtime; the wiring has been checked. ``closing`` closes them."""
        self.inputs = declared.inputs
        self.outputs = tuple(_output_spec(name, source, members) for name, source in declared.outputs.items())
        self.thread_safe = all(member.thread_safe for member in members.values())
        self.examples = _examples(declared, members)
        self._declared = declared
        self._members = members
        self._closing = closing
        self._all_outputs = tuple(declared.outputs)
        self._plan_for_all = self._plan(self._all_outputs)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array] | Awaitable[Sequence[Array]]:
        """Answered directly while every member answers directly; awaitable as soon as one member's answer is.

        Runs only the steps that ``outputs`` need. Raises ``ModelFailed`` naming the step if a member raises.
        """
        wanted = tuple(outputs)
        plan = self._plan_for_all if wanted == self._all_outputs else self._plan(wanted)
        values = dict(inputs)
        calls = iter(plan.calls)
        pending = _advance(calls, values)
        if pending is None:
            return [values[source] for source in plan.answers]
        return _finish(calls, pending, values, plan.answers)

    def close(self) -> None:
        """Close every member, even if one raises; the error is raised when all are closed."""
        self._closing.close()

    def _plan(self, outputs: Sequence[str]) -> _Plan:
        answers = tuple(self._declared.outputs[name] for name in outputs)
        needed = set(answers)
        calls: list[_Call] = []
        for step in reversed(self._declared.steps):
            member = self._members[step.name]
            produced = {spec.name: f"{step.name}.{spec.name}" for spec in member.outputs}
            used = {tensor: value for tensor, value in produced.items() if value in needed}
            if used:
                needed.update(step.inputs.values())
                calls.append(_Call(step.name, member, tuple(step.inputs.items()), tuple(used), tuple(used.values())))
        return _Plan(tuple(reversed(calls)), answers)


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> PipelineRuntime:
    """A pipeline with its members loaded, each digest once however many steps name it.

    Options of the manifest: ``steps`` (``name``, ``model_digest``, ``inputs``: member tensor -> source), ``outputs``
    (pipeline output -> ``<step>.<tensor>``) and ``inputs`` (tensor specs). Raises ``CorruptArtifact`` if they cannot
    be read, and ``InvalidInput`` naming the step or output if the wiring has a cycle, an unknown source, a member
    input left open or unknown, or a datatype, shape or column order that differs between its two ends.
    """
    try:
        declared = msgspec.convert(dict(manifest_options), _Options)
    except msgspec.ValidationError as error:
        raise CorruptArtifact(
            "the options of the pipeline are not valid",
            field="options",
            hint="push it again with steps, inputs, outputs",
        ) from error
    _check_order(declared)
    with ExitStack() as closing:
        loaded: dict[str, Runtime] = {}
        for step in declared.steps:
            if step.model_digest not in loaded:
                loaded[step.model_digest] = load_member(step.model_digest)
                closing.callback(loaded[step.model_digest].close)
        members = {step.name: loaded[step.model_digest] for step in declared.steps}
        _check_wiring(declared, members)
        return PipelineRuntime(declared, members, closing.pop_all())


def _advance(calls: Iterator[_Call], values: dict[str, Array]) -> _Pending | None:
    """Run ``calls`` into ``values`` up to the first whose answer has to be awaited; ``None`` when all have run."""
    for call in calls:
        try:
            answer = call.runtime.run({tensor: values[source] for tensor, source in call.take}, call.outputs)
            if inspect.isawaitable(answer):
                return _Pending(call, answer)
            values.update(zip(call.give, answer, strict=True))
        except KeelwayError as error:
            raise _of_the_pipeline(error, call) from None
        except Exception as error:
            raise ModelFailed(f"step '{call.step}' of the pipeline failed") from error
    return None


async def _finish(
    calls: Iterator[_Call], pending: _Pending | None, values: dict[str, Array], answers: Sequence[str]
) -> Sequence[Array]:
    while pending is not None:
        call = pending.call
        try:
            values.update(zip(call.give, await pending.answer, strict=True))
        except KeelwayError as error:
            raise _of_the_pipeline(error, call) from None
        except Exception as error:
            raise ModelFailed(f"step '{call.step}' of the pipeline failed") from error
        pending = _advance(calls, values)
    return [values[source] for source in answers]


def _of_the_pipeline(error: KeelwayError, call: _Call) -> KeelwayError:
    """A member's deliberate error is the pipeline's; the input it names is called by the pipeline's own name."""
    names = {tensor: source for tensor, source in call.take if "." not in source}
    for one in (error, *(error.errors.values() if isinstance(error, RowsRefused) else ())):
        one.field = names.get(one.field or "", one.field)
    return error


def _examples(declared: _Options, members: Mapping[str, Runtime]) -> dict[str, Array]:
    """What members know of their own inputs (``ports.Exemplary``), for those that are the pipeline's."""
    inputs = {spec.name for spec in declared.inputs}
    return {
        source: getattr(members[step.name], "examples", {})[tensor]
        for step in reversed(declared.steps)
        for tensor, source in step.inputs.items()
        if source in inputs and tensor in getattr(members[step.name], "examples", {})
    }


def _check_order(declared: _Options) -> None:
    """What can be told before a member is loaded: names, and that each step uses only what stands before it."""
    if not declared.steps or not declared.outputs:
        raise InvalidInput(
            "the pipeline has no steps or no outputs", field="steps", hint="declare at least one of each"
        )
    known = {spec.name for spec in declared.inputs}
    done: set[str] = set()
    names = {step.name for step in declared.steps}
    for step in declared.steps:
        _check_step_name(step.name, done, known)
        for tensor, source in step.inputs.items():
            origin = _step_of(source)
            if source in known or origin in done:
                continue
            later = origin in names
            raise InvalidInput(
                f"input '{tensor}' of step '{step.name}' comes from '{source}', which "
                + ("runs no earlier" if later else "is unknown"),
                field=step.name,
                hint="put the steps in the order of their use; a cycle has none"
                if later
                else "name a pipeline input, or <step>.<tensor>",
            )
        done.add(step.name)
    for output, source in declared.outputs.items():
        if _step_of(source) not in done:
            raise InvalidInput(f"output '{output}' comes from no step", field=output, hint="name it as <step>.<tensor>")


def _check_step_name(name: str, done: set[str], inputs: set[str]) -> None:
    if not name or "." in name or name in done:
        raise InvalidInput(
            "the steps of the pipeline need names that differ and have no dot",
            field=name or "steps",
            hint="rename them",
        )
    if any(spec.startswith(f"{name}.") for spec in inputs):
        raise InvalidInput(
            f"an input of the pipeline reads like a tensor of step '{name}'", field=name, hint="rename the step"
        )


def _check_wiring(declared: _Options, members: Mapping[str, Runtime]) -> None:
    """Both ends of every wire exist and fit; every input of every member has a wire."""
    sources = {spec.name: spec for spec in declared.inputs}
    for step in declared.steps:
        wanted = {spec.name: spec for spec in members[step.name].inputs}
        for tensor in wanted.keys() - step.inputs.keys():
            raise InvalidInput(
                f"step '{step.name}' leaves its input '{tensor}' open", field=step.name, hint="name a source for it"
            )
        for tensor, source in step.inputs.items():
            if tensor not in wanted:
                raise InvalidInput(
                    f"step '{step.name}' has no input '{tensor}'", field=step.name, hint=f"it takes {', '.join(wanted)}"
                )
            _check_wire(step.name, wanted[tensor], source, sources)
        sources.update({f"{step.name}.{spec.name}": spec for spec in members[step.name].outputs})
    for output, source in declared.outputs.items():
        if source not in sources:
            raise InvalidInput(
                f"output '{output}' names a tensor that its step does not answer",
                field=output,
                hint="check its spelling",
            )


def _check_wire(step: str, wanted: TensorSpec, source: str, sources: Mapping[str, TensorSpec]) -> None:
    given = sources.get(source)
    if given is None:
        raise InvalidInput(
            f"input '{wanted.name}' of step '{step}' names a tensor that its source does not answer",
            field=step,
            hint="check its spelling",
        )
    if given.datatype != wanted.datatype:
        problem = f"is {wanted.datatype}, its source {given.datatype}"
    elif len(given.shape) != len(wanted.shape) or any(
        left != right and -1 not in (left, right) for left, right in zip(given.shape, wanted.shape, strict=True)
    ):
        problem = f"has the shape {list(wanted.shape)}, its source {list(given.shape)}"
    elif given.columns and wanted.columns and given.columns != wanted.columns:
        problem = "takes other columns, or another order of them, than its source has"
    else:
        return
    raise InvalidInput(
        f"input '{wanted.name}' of step '{step}' {problem}", field=step, hint="put a step between them that converts it"
    )


def _output_spec(name: str, source: str, members: Mapping[str, Runtime]) -> TensorSpec:
    step, _, tensor = source.partition(".")
    spec = next(spec for spec in members[step].outputs if spec.name == tensor)
    return msgspec.structs.replace(spec, name=name)


def _step_of(source: str) -> str:
    return source.partition(".")[0] if "." in source else ""
