"""What the child does with an estimator: ask it on the rows of the proof, convert it, and keep it where that fails.

It stops converting at the first candidate that holds on those rows. That is to save work: the verdict is the parent's,
from the files this leaves (``sklearn_file.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from keelway.contract.signature import Feature, Task, pack
from keelway.errors import ConversionRefused, CorruptArtifact, KeelwayError
from keelway.publish import answers, asking_booster, boosters, exchange
from keelway.publish.answers import Answers
from keelway.publish.asking_booster import subject_of
from keelway.publish.boosters.model import BoosterModel
from keelway.publish.convert import translate
from keelway.publish.convert.graph import NotTranslated
from keelway.publish.exchange import Candidate, EstimatorRequest, EstimatorResult
from keelway.publish.opening import check_estimator, describe, feature_columns, open_estimator
from keelway.publish.original import Original, nodes_of
from keelway.publish.perturb import NODES, Perturbation
from keelway.publish.proof import Comparison, compare, spread
from keelway.publish.proving import ask, micros, prove
from keelway.publish.rows import Rows, joined, tensors
from keelway.publish.subject import Door, Subject
from keelway.runtimes.boosters import BoostersRuntime
from keelway.runtimes.skops import Given, SkopsColumn, SkopsOptions, SkopsRuntime, load_estimator
from keelway.types import Array, TensorSpec

_TASKS: Final[dict[translate.Kind, Task]] = {
    "classifier": "classification",
    "regressor": "regression",
    "transformer": "other",
}


def ask_estimator(request: EstimatorRequest, folder: Path, made: Any = None) -> EstimatorResult:
    """Open, ask, convert; leave the rows, the original's answers and the candidates in ``folder``.

    ``made`` is the model itself, where a factory made it.
    """
    sample = Rows.load(folder / exchange.SAMPLE)
    subject = _opened(request, sample, made)
    original = subject.original
    known = {feature.name: feature for feature in request.features}
    features = tuple(known[column] for column in original.columns)
    sample = _ordered(sample, original.columns)
    kinds, rows, answered = _proof_rows(subject, sample, features)
    rows.save(folder / exchange.ROWS)
    answered.save(folder / exchange.ANSWERS)
    scale = None if original.has_probabilities else spread(answered.values[: len(sample)])
    candidates = []
    holds = False
    for candidate, comparison in _candidates(subject, features, rows, answered, scale, request.tolerance, folder):
        candidates.append(candidate)
        holds = comparison is not None and comparison.holds
        if holds:
            break
    one = original.given(sample.frame(whole=True).iloc[:1])
    result = EstimatorResult(
        estimator=subject.description,
        columns=original.columns,
        dtypes=tuple(sample.dtypes[column] for column in original.columns),
        given=subject.given,
        task=subject.task,
        labels=subject.labels,
        probabilities=original.has_probabilities,
        kinds=kinds,
        candidates=tuple(candidates),
        micros=micros(lambda: original.ask_one(one)),
        saved_with=subject.saved_with,
        framework=subject.framework,
    )
    if holds:
        return result
    keep = _kept_natively if isinstance(subject.model, BoosterModel) else _kept
    return keep(subject.model, result, features, rows, answered, scale, folder)


def _opened(request: EstimatorRequest, sample: Rows, made: Any) -> Subject:
    """The model in the file, as it was: a booster by itself, or a scikit-learn estimator, a pipeline included."""
    path = Path(request.file)
    saved_with = ""
    if request.format == "factory":
        estimator = made
        check_estimator(estimator)
        booster = boosters.of_object(estimator)
    elif request.format == "pickle" or request.format == "skops":
        estimator, saved_with = open_estimator(path, request.format, request.trusted_types)
        booster = boosters.of_object(estimator)
    else:
        booster = boosters.open_file(path, request.format)
    if booster is not None:
        booster = booster.for_sample(request.features)
        return subject_of(booster, _ordered(sample, [column.name for column in booster.columns]))
    columns, given = feature_columns(estimator, tuple(feature.name for feature in request.features))
    original = Original(estimator, columns, given)
    return Subject(
        model=estimator,
        original=original,
        description=describe(estimator),
        framework="scikit-learn",
        task=_TASKS[translate.kind_of(estimator)],
        labels=_labels(original),
        given=given,
        convert=partial(translate.translate, estimator),
        nodes=partial(nodes_of, estimator, columns),
        saved_with=saved_with,
    )


def _labels(original: Original) -> tuple[str | int | bool, ...]:
    if not original.is_classifier:
        return ()
    try:
        return translate.class_values(original.estimator.classes_)
    except NotTranslated as error:
        raise ConversionRefused(
            f"this classifier cannot be served: {error}",
            hint="train one model for each target, with plain class labels",
        ) from error


def _proof_rows(
    subject: Subject, sample: Rows, features: Sequence[Feature]
) -> tuple[tuple[tuple[str, int], ...], Rows, Answers]:
    """All rows of the proof, sample first, how many of each kind, and what the original answers."""
    original = subject.original
    first = original.answers(sample.frame(whole=True))
    # Rows that the original refuses make no others.
    usable = sample.take(np.flatnonzero(first.accepted))
    perturbation = Perturbation(usable, frozenset(feature.name for feature in features if feature.nullable))
    labels = original.labels if original.is_classifier else None
    nodes = subject.nodes(usable, NODES, np.random.default_rng(0))
    made = perturbation.rows(labels, original.values, nodes)
    rest = joined([rows for _, rows in made])
    kinds = (("sample", len(sample)), *((kind, len(rows)) for kind, rows in made if len(rows)))
    return kinds, joined([sample, rest]), answers.joined([first, original.answers(rest.frame())])


def _candidates(
    subject: Subject,
    features: Sequence[Feature],
    rows: Rows,
    original: Answers,
    scale: Array | None,
    tolerance: float,
    folder: Path,
) -> Iterator[tuple[Candidate, Comparison | None]]:
    for number, (name, door, arithmetic) in enumerate(subject.attempts):
        taken = at_door(features, door)
        if door == "FP64" and taken == tuple(features):
            return  # there are no numbers
        file = f"candidate_{number}.onnx"
        inputs = pack(taken)
        try:
            translation = subject.convert(inputs, taken, arithmetic)
            (folder / file).write_bytes(translation.model.SerializeToString())
            comparison = prove(folder / file, inputs, rows, original, scale, tolerance)
        except (NotTranslated, KeelwayError) as error:
            yield Candidate(name, door, reason=str(error)), None
        except Exception as error:  # noqa: BLE001 - skl2onnx and protobuf raise anything for what they cannot do
            yield Candidate(name, door, reason=f"the converter raised {type(error).__name__}"), None
        else:
            yield Candidate(name, door, translation.outputs, file), comparison


def at_door(features: Sequence[Feature], door: Door) -> tuple[Feature, ...]:
    """``features`` with their numbers in the datatype ``door``."""
    return tuple(
        msgspec.structs.replace(feature, datatype=door) if feature.datatype == "FP32" else feature
        for feature in features
    )


# Kept as it is


def _kept(
    estimator: Any,
    result: EstimatorResult,
    features: Sequence[Feature],
    rows: Rows,
    original: Answers,
    scale: Array | None,
    folder: Path,
) -> EstimatorResult:
    """The estimator as a skops file, loaded again and compared with itself, values exactly as labels."""
    from skops import io

    path = folder / exchange.SKOPS
    try:
        io.dump(estimator, path)
        untrusted = io.get_untrusted_types(file=path)
        loaded = load_estimator(path, frozenset(untrusted))
    except Exception as error:  # objects that skops cannot describe raise whatever they like
        raise ConversionRefused(
            f"{result.estimator} can neither be converted nor written as a skops file",
            hint="push a Python class that does what it does: keelway push NAME model.py",
        ) from error
    inputs = pack(at_door(features, "FP64"))
    outputs = _skops_outputs(result, original)
    compared = result
    for way in _ways_to_ask(result):
        runtime = SkopsRuntime(loaded, skops_options(way, inputs, outputs))
        with suppress(Exception):  # it may take its texts as a series only, and say so in any way
            compared = _compared_with_itself(way, runtime, inputs, outputs, rows, original, scale)
        if compared.kept is not None and compared.kept.holds:
            break
    return msgspec.structs.replace(compared, untrusted_types=tuple(sorted(untrusted)))


def _ways_to_ask(result: EstimatorResult) -> Iterator[EstimatorResult]:
    """From the quickest to the one that is surely right: texts as a bare array, the label from the probabilities."""
    forms: tuple[Given, ...] = ("texts", "series") if result.given == "series" else (result.given,)
    for most_probable in (True, False) if result.probabilities else (False,):
        for given in forms:
            yield msgspec.structs.replace(result, given=given, most_probable=most_probable)


def _kept_natively(
    model: BoosterModel,
    result: EstimatorResult,
    features: Sequence[Feature],
    rows: Rows,
    original: Answers,
    scale: Array | None,
    folder: Path,
) -> EstimatorResult:
    """The booster in its own format, loaded again and compared with what it answered, values exactly as labels."""
    inputs = pack(at_door(features, "FP64"))
    outputs = _skops_outputs(result, original)
    options = asking_booster.keep(model, inputs, outputs, folder)
    runtime = BoostersRuntime(folder / options.file, options)
    result = _compared_with_itself(result, runtime, inputs, outputs, rows, original, scale)
    return msgspec.structs.replace(result, native=options)


def _compared_with_itself(
    result: EstimatorResult,
    runtime: SkopsRuntime | BoostersRuntime,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    rows: Rows,
    original: Answers,
    scale: Array | None,
) -> EstimatorResult:
    accepted = np.flatnonzero(original.accepted)
    packed = tensors(rows.take(accepted), inputs)
    comparison = compare(original.take(accepted), ask(runtime, packed), scale, tolerance=1e-12)
    one = {name: array[:1] for name, array in packed.items()}
    return msgspec.structs.replace(
        result,
        kept=msgspec.structs.replace(comparison, refused=len(rows) - len(accepted)),
        kept_outputs=outputs,
        kept_micros=micros(lambda: runtime.run(one, [spec.name for spec in outputs])),
    )


def skops_options(
    result: EstimatorResult, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> SkopsOptions:
    columns = tuple(SkopsColumn(name, dtype) for name, dtype in zip(result.columns, result.dtypes, strict=True))
    labels = result.labels if result.most_probable else ()
    return SkopsOptions(columns, inputs, outputs, result.given, most_probable=labels)


def _skops_outputs(result: EstimatorResult, original: Answers) -> tuple[TensorSpec, ...]:
    width = original.values.shape[1]
    if result.task != "classification":
        return (TensorSpec("prediction", "FP64", (-1,) if width == 1 else (-1, width)),)
    label = TensorSpec("label", translate.label_datatype(result.labels), (-1,))
    if not width:
        return (label,)
    return (label, TensorSpec("probabilities" if result.probabilities else "scores", "FP64", (-1, width)))


def _ordered(rows: Rows, columns: Sequence[str]) -> Rows:
    missing = [column for column in columns if column not in rows.columns]
    if missing:
        raise CorruptArtifact("the sample was not handed over whole", field=missing[0])
    return Rows({name: rows.columns[name] for name in columns}, rows.dtypes)
