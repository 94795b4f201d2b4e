"""What docs/adr/0006-own-translators.md says of skl2onnx still holds; when it does not, the record is out of date.

The whole comparison is ``python -m tests.docs.skl2onnx_alone``; here are the claims that it takes seconds to try.
"""

from __future__ import annotations

import pytest
from tests.docs.skl2onnx_alone import converted, packing, published, ties

from keelway.publish.convert import translate
from keelway.publish.families import FAMILIES

NUMERIC = {(family.name, family.data): family for family in FAMILIES if not family.data.startswith("mixed")}


def test_the_record_counts_the_families_there_are() -> None:
    assert len(NUMERIC) == 40, "docs/adr/0006-own-translators.md says 24 and 38 of 40: run the comparison again"


@pytest.mark.slow
def test_where_votes_tie_another_order_of_addition_gives_another_label() -> None:
    pure = ties(100, 1)
    assert pure.rows > 300
    assert pure.skl2onnx_two_threads > 0.5 * pure.rows
    assert pure.keelway == 0
    impure = ties(10, 2)
    assert impure.skl2onnx_one_thread > 0
    assert impure.keelway == 0


@pytest.mark.slow
def test_one_packed_input_is_much_faster_than_one_for_each_column() -> None:
    measured = packing()
    assert measured.an_input_each > 3 * measured.one_input


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LinearSVC", "RidgeClassifier", "StandardScaler, RandomForest"])
def test_a_family_is_proved_only_by_a_translator_of_our_own(name: str) -> None:
    (family,) = (family for (known, _), family in NUMERIC.items() if known == name)
    assert published(family, converted).format == "skops"
    assert published(family, translate.translate).format == "onnx"
