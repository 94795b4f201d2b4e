from __future__ import annotations

import pytest

from keelway.contract.signature import Feature, validate_signature
from keelway.contract.tensors import signature_from_tensors
from keelway.types import TensorSpec


def test_each_tensor_becomes_a_feature_with_the_shape_of_one_row() -> None:
    inputs = [TensorSpec("image", "FP32", (-1, 3, 224, 224)), TensorSpec("age", "INT64", (-1,))]
    signature = signature_from_tensors(inputs, [TensorSpec("out", "FP32", (-1, 10))])
    assert signature.features == (Feature("image", "FP32", True, (3, 224, 224)), Feature("age", "INT64"))
    assert signature.batched
    validate_signature(signature)


def test_one_number_a_row_is_a_scalar_whether_or_not_it_has_an_axis_of_its_own() -> None:
    inputs = [TensorSpec("a", "FP32", (-1, 1)), TensorSpec("b", "FP32", (-1,))]
    signature = signature_from_tensors(inputs, [TensorSpec("out", "FP32", (-1, 1))])
    assert [feature.shape for feature in signature.features] == [(), ()]
    validate_signature(signature)


def test_a_fixed_batch_of_one_is_no_batch_axis() -> None:
    signature = signature_from_tensors([TensorSpec("x", "FP32", (1, 4))], [TensorSpec("y", "FP32", (1, 2))])
    assert not signature.batched
    assert signature.features[0].shape == (1, 4)
    validate_signature(signature)


def test_a_model_with_one_free_and_one_fixed_tensor_is_not_batched() -> None:
    inputs = [TensorSpec("x", "FP32", (-1, 4)), TensorSpec("k", "INT64", (1,))]
    signature = signature_from_tensors(inputs, [TensorSpec("y", "FP32", (-1, 2))])
    assert not signature.batched
    validate_signature(signature)


@pytest.mark.parametrize(
    ("names", "label", "probabilities"),
    [
        (("label", "probabilities"), "label", "probabilities"),
        (("output_label", "output_probability"), "output_label", "output_probability"),
        (("a", "b"), "", ""),
    ],
)
def test_outputs_are_understood_when_their_names_and_shapes_leave_no_doubt(
    names: tuple[str, str], label: str, probabilities: str
) -> None:
    outputs = [TensorSpec(names[0], "INT64", (-1,)), TensorSpec(names[1], "FP32", (-1, 3))]
    signature = signature_from_tensors([TensorSpec("x", "FP32", (-1, 4))], outputs)
    assert (signature.label_output, signature.probability_output) == (label, probabilities)
    assert signature.task == ("classification" if label else "other")


def test_two_labels_are_no_label() -> None:
    outputs = [TensorSpec("label_a", "INT64", (-1,)), TensorSpec("label_b", "INT64", (-1,))]
    assert signature_from_tensors([TensorSpec("x", "FP32", (-1, 4))], outputs).label_output == ""


def test_a_label_of_several_numbers_a_row_is_none() -> None:
    outputs = [TensorSpec("labels", "FP32", (-1, 7)), TensorSpec("boxes", "FP32", (-1, 7, 4))]
    assert signature_from_tensors([TensorSpec("x", "FP32", (-1, 4))], outputs).label_output == ""
