"""Texts become the ids that the library makes of them, padded and cut as the options say, row by row."""

from __future__ import annotations

import sys
import threading
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.steps import WORDS, objects, write_tokenizer

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, PayloadTooLarge, RowsRefused
from keelway.ports import Runtime, RuntimeOptions
from keelway.runtimes import tokens
from keelway.runtimes.tokens import TokensOptions, TokensRuntime
from keelway.types import Array

IDS = {word: number for number, word in enumerate(WORDS, start=4)}
NAMES = ["input_ids", "attention_mask"]


def no_member(_: str) -> Runtime:
    raise AssertionError("a step has no members")


@cache
def folder() -> Path:
    path = Path(mkdtemp(prefix="keelway-tests-"))
    write_tokenizer(path / "tokenizer.json")
    return path


def load(where: Path | None = None, **options: Any) -> TokensRuntime:
    return tokens.load(where or folder(), "sha256:0", {"max_length": 16, **options}, RuntimeOptions(), no_member)


def made(runtime: TokensRuntime, *texts: Any) -> tuple[Array, Array]:
    ids, mask = runtime.run({"text": objects(*texts)}, NAMES)
    return ids, mask


def refusal(runtime: TokensRuntime, *texts: Any) -> RowsRefused:
    with pytest.raises(RowsRefused) as refused:
        made(runtime, *texts)
    return refused.value


def test_a_text_becomes_its_ids_between_the_special_ones() -> None:
    ids, mask = made(load(), "The room was really GOOD!", "bad")
    good = [2, IDS["the"], IDS["room"], IDS["was"], 1, IDS["good"], IDS["!"], 3]
    assert ids.tolist() == [good, [2, IDS["bad"], 3, 0, 0, 0, 0, 0]]
    assert mask.tolist() == [[1] * 8, [1, 1, 1, 0, 0, 0, 0, 0]]
    assert (ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_text_and_its_utf8_are_the_same() -> None:
    for text in ("good food", "Zürich → 東京", ""):
        assert np.array_equal(made(load(), text)[0], made(load(), text.encode())[0])


def test_outputs_are_what_is_declared() -> None:
    assert [(spec.name, spec.datatype, spec.shape) for spec in load().outputs] == [
        ("input_ids", "INT64", (-1, -1)),
        ("attention_mask", "INT64", (-1, -1)),
    ]
    runtime = load(pad=20, token_type_ids=True, datatype="INT32")
    assert [(spec.name, spec.datatype, spec.shape) for spec in runtime.outputs] == [
        (name, "INT32", (-1, 20)) for name in (*NAMES, "token_type_ids")
    ]
    types, ids = runtime.run({"text": objects("good")}, ["token_type_ids", "input_ids"])
    assert types.tolist() == [[0] * 20]
    assert (types.dtype, ids.shape) == (np.int32, (1, 20))


def test_an_empty_text_has_the_special_tokens_alone_and_without_them_one_place() -> None:
    ids, mask = made(load(), "")
    assert (ids.tolist(), mask.tolist()) == ([[2, 3]], [[1, 1]])
    ids, mask = made(load(special_tokens=False), "", "")
    assert (ids.tolist(), mask.tolist()) == ([[0], [0]], [[0], [0]])
    ids, _ = made(load(special_tokens=False), "good food")
    assert ids.tolist() == [[IDS["good"], IDS["food"]]]


def test_a_long_text_is_cut_and_keeps_its_end_token() -> None:
    ids, mask = made(load(max_length=5), "good bad room the was and very")
    assert ids.tolist() == [[2, IDS["good"], IDS["bad"], IDS["room"], 3]]
    assert mask.sum() == 5
    assert made(load(max_length=5), "good " * 100_000)[0].shape == (1, 5)


def test_or_refused_where_that_is_said() -> None:
    runtime = load(max_length=5, too_long="refuse")
    assert made(runtime, "good bad room")[0].shape == (1, 5)
    refused = refusal(runtime, "good", "good bad room the", "bad", "good " * 1000)
    assert {row: error.message for row, error in refused.errors.items()} == {
        1: "the text has more than 5 tokens",
        3: "the text has more than 5 tokens",
    }


def test_a_text_of_absurd_length_is_not_even_looked_at() -> None:
    runtime = load(max_characters=10)
    assert made(runtime, "good food!")[0].shape == (1, 5)
    for text in ("good food!!", b"good food!!", "ü" * 11, "ü".encode() * 1000):
        assert refusal(runtime, text).message == "row 0: the text has more than 10 characters"


def test_texts_that_are_none_are_named_and_never_quoted() -> None:
    refused = refusal(load(), "good", None, b"\xff sentinel", "\ud800", "bad")
    assert {row: error.message for row, error in refused.errors.items()} == {
        1: "the text is missing",
        2: "the text is not UTF-8",
        3: "the text holds half a character",
    }
    assert refused.message == "row 1: the text is missing"
    assert refused.field == "text"


def test_too_many_tokens_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_MAX_TOKENS", 100)
    assert made(load(pad=50), "good", "bad")[0].shape == (2, 50)
    with pytest.raises(PayloadTooLarge, match="send fewer at once"):
        made(load(pad=50), "good", "bad", "food")


# Padding


SENTENCES = st.lists(st.lists(st.sampled_from(["good", "bad", "nonsense", "ü"]), max_size=20).map(" ".join), min_size=1)


@given(SENTENCES, st.integers(2, 24), st.integers(1, 8), st.sampled_from(["left", "right"]))
def test_padding_adds_nothing_but_padding(texts: list[str], longest: int, multiple: int, side: str) -> None:
    multiple = min(multiple, longest)
    ids, mask = made(load(max_length=longest, multiple=multiple, side=side), *texts)
    length = ids.shape[1]
    assert ids.shape == mask.shape == (len(texts), length)
    assert length <= longest
    assert length % multiple == 0 or length == longest
    lengths = mask.sum(axis=1)
    assert length - lengths.max() < multiple
    assert (ids[mask == 0] == 0).all()
    for row, text in enumerate(texts):
        (alone,), _ = made(load(max_length=longest), text)
        assert ids[row][mask[row] == 1].tolist() == alone.tolist()
        place = mask[row][::-1] if side == "left" else mask[row]
        assert place.tolist() == [1] * int(lengths[row]) + [0] * (length - int(lengths[row]))


@given(SENTENCES, st.integers(2, 24))
def test_a_fixed_length_is_every_rows_length(texts: list[str], length: int) -> None:
    ids, mask = made(load(max_length=length, pad=length), *texts)
    assert ids.shape == (len(texts), length)
    assert ((ids != 0) == (mask == 1)).all()


@given(st.lists(st.one_of(st.text(), st.binary(max_size=50)), min_size=1))
def test_whatever_is_sent_becomes_tokens_or_a_refusal_of_its_row(texts: list[Any]) -> None:
    def is_text(value: Any) -> bool:
        try:
            return bool(value.decode() if isinstance(value, bytes) else value.encode()) or True
        except UnicodeError:
            return False

    bad = [row for row, text in enumerate(texts) if not is_text(text)]
    if bad:
        assert sorted(refusal(load(), *texts).errors) == bad
        return
    ids, mask = made(load(), *texts)
    assert ids.shape == mask.shape
    assert (mask.sum(axis=1) >= 2).all()


def test_padding_is_the_tokenizers_own_unless_it_is_said(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json", direction="left", pad_id=9, pad_token="and", length=12)
    ids, mask = made(load(tmp_path), "good food", "bad")
    assert ids.tolist()[1] == [9, 2, IDS["bad"], 3]
    assert mask.tolist()[1] == [0, 1, 1, 1]
    ids, _ = made(load(tmp_path, side="right", pad_token="[SEP]"), "good food", "bad")
    assert ids.tolist()[1] == [2, IDS["bad"], 3, 3]


# Files and options


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"max_length": 0}, "max_length"),
        ({"max_length": 1}, "max_length"),
        ({"pad": 8}, "pad"),
        ({"multiple": 17}, "multiple"),
        ({"multiple": 0}, "multiple"),
        ({"pad": 16, "multiple": 8}, "multiple"),
        ({"pad_token": "[NOTHING]"}, "pad_token"),
        ({"max_characters": 0}, "max_characters"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        tokens.open_tokens(folder() / "tokenizer.json", TokensOptions(**{"max_length": 16, **options}))
    assert refused.value.field == field
    with pytest.raises(CorruptArtifact):
        load(**options)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff", b'{"model": {"type": "WordPiece"}}'])
def test_a_file_that_is_no_tokenizer_is_a_corrupt_artifact(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CorruptArtifact):
        load(tmp_path)
    with pytest.raises(InvalidInput, match=r"tokenizer\.json holds no tokenizer"):
        tokens.open_tokens(tmp_path / "tokenizer.json", TokensOptions(16))


def test_a_missing_file_and_unknown_options_are_corrupt_artifacts(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        load(tmp_path)
    with pytest.raises(CorruptArtifact):
        load(more=1)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(FailedPrecondition) as refused:
        load()
    assert refused.value.hint == 'pip install "keelway[text]"'


def test_the_example_is_a_text_that_it_takes() -> None:
    runtime = load()
    ids, _ = made(runtime, *runtime.examples["text"])
    assert ids.shape == (1, 16)


def test_runs_may_overlap() -> None:
    runtime = load(multiple=4)
    assert runtime.thread_safe
    batches = [["good"], ["bad food", "the room was good"], ["very"] * 5, ["nonsense " * 30, ""]]
    alone = [made(runtime, *batch)[0] for batch in batches]
    wrong: list[int] = []

    def ask(first: int) -> None:
        for turn in range(200):
            position = (first + turn) % len(batches)
            if not np.array_equal(made(runtime, *batches[position])[0], alone[position]):
                wrong.append(position)

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
