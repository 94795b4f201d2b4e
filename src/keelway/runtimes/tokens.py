"""Text to token ids: the step of a pipeline that lets people send text to a language model.

The vocabulary and the rules are a ``tokenizer.json`` among the artifact's files, read by the library ``tokenizers``;
padding and length are options of the manifest. ``hosting`` loads it by its entry point, ``publish`` makes its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import numpy as np

from keelway.errors import CorruptArtifact, FailedPrecondition, InvalidInput, PayloadTooLarge, RowsRefused
from keelway.ports import MemberLoader, RuntimeOptions
from keelway.types import NUMPY_DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEXT: Final = TensorSpec("text", "BYTES", (-1,))
#: The file of the artifact.
FILE: Final = "tokenizer.json"
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"

#: Longest a sequence may be said to be, and most tokens of one run, padding included.
_MAX_LENGTH: Final = 1 << 20
_MAX_TOKENS: Final = 1 << 25
#: What tokenizers that do not say call their padding.
_PADDING: Final = ("[PAD]", "<pad>", "<|padding|>", "<|endoftext|>", "</s>")
#: About as long as what people write into a search box.
_EXAMPLE: Final = "The room was quiet, the breakfast good, and we would come again."


class TokensOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest options.

    A text of more than ``max_length`` tokens, special ones included, is cut or, with ``too_long = "refuse"``, refused.
    ``pad`` is ``longest``, the longest text of the request, rounded up to a multiple of ``multiple`` but never beyond
    ``max_length``; or a number, the length of every row. ``pad_token`` is the tokenizer's own unless it is said;
    ``side`` likewise. ``token_type_ids`` asks for a third output. ``special_tokens``: whether the tokenizer adds those
    that begin and end a text. A text of more than ``max_characters`` characters is refused before it is looked at.
    """

    max_length: int
    too_long: Literal["cut", "refuse"] = "cut"
    pad: Literal["longest"] | int = "longest"
    multiple: int = 1
    pad_token: str | None = None
    side: Literal["left", "right"] | None = None
    token_type_ids: bool = False
    special_tokens: bool = True
    datatype: Literal["INT64", "INT32"] = "INT64"
    max_characters: int = 1_000_000

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """``input_ids`` and ``attention_mask``, [-1, -1] or [-1, ``pad``], and ``token_type_ids`` if asked for."""
        names = (_IDS, _MASK, _TYPES) if self.token_type_ids else (_IDS, _MASK)
        length = self.pad if isinstance(self.pad, int) else -1
        return tuple(TensorSpec(name, self.datatype, (-1, length)) for name in names)

    def check(self) -> None:
        """Raise ``InvalidInput`` naming the option unless they make sense together."""
        fixed = isinstance(self.pad, int)
        problems = {
            "max_length": not 1 <= self.max_length <= _MAX_LENGTH and f"max_length is between 1 and {_MAX_LENGTH}",
            "pad": isinstance(self.pad, int)
            and not self.max_length <= self.pad <= _MAX_LENGTH
            and "pad is longest, or a number that is max_length at least",
            "multiple": (not 1 <= self.multiple <= self.max_length or (fixed and self.multiple > 1))
            and "multiple is between 1 and max_length, and goes with pad longest",
            "max_characters": self.max_characters < 1 and "max_characters is 1 at least",
        }
        for field, problem in problems.items():
            if problem:
                raise InvalidInput(f"tokens: {problem}", field=field)


class TokensRuntime:
    """A tokenizer and its options. Runs may overlap: the tokenizer is only read once it is set up."""

    thread_safe = True

    def __init__(self, tokenizer: Tokenizer, options: TokensOptions) -> None:
        """Raises ``InvalidInput`` if ``pad_token`` or ``max_length`` does not fit the tokenizer."""
        self.inputs = (TEXT,)
        self.outputs = options.outputs
        #: One text that it takes, for the warm-up and the documentation page.
        self.examples = {TEXT.name: np.array([_EXAMPLE], object)}
        padding: Mapping[str, Any] = tokenizer.padding or {}
        cutting: Mapping[str, Any] = tokenizer.truncation or {}
        self._options = options
        self._tokenizer = tokenizer
        self._left = (options.side or padding.get("direction")) == "left"
        self._padding = {
            _IDS: _padding_id(tokenizer, options.pad_token, padding),
            _MASK: 0,
            _TYPES: padding.get("pad_type_id", 0),
        }
        # The rest of padding is done here, from options that the digest covers, and on arrays.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        special = tokenizer.num_special_tokens_to_add(is_pair=False) if options.special_tokens else 0
        if options.max_length < special:
            raise InvalidInput(f"tokens: max_length leaves no room for {special} special tokens", field="max_length")
        if options.too_long == "cut":
            tokenizer.enable_truncation(options.max_length, direction=cutting.get("direction", "right"))

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        """Raises ``RowsRefused`` for texts that are missing, are no UTF-8 or too long, ``PayloadTooLarge`` if they are
        too many. An empty text has no tokens but the special ones; a row has one place at least."""
        texts = self._texts(inputs[TEXT.name].tolist())
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._options.special_tokens)
        rows = [encoding.ids for encoding in encoded]
        self._check_lengths(rows)
        length = self._length(rows)
        if length * len(rows) > _MAX_TOKENS:
            raise PayloadTooLarge("the texts of one request become too many tokens; send fewer at once")
        parts = {
            _IDS: lambda: rows,
            _MASK: lambda: [[1] * len(row) for row in rows],
            _TYPES: lambda: [encoding.type_ids for encoding in encoded],
        }
        return [self._padded(parts[name](), length, self._padding[name]) for name in outputs]

    def close(self) -> None:
        """The tokenizer's memory goes with its last reference."""
        del self._tokenizer

    def _texts(self, given: Sequence[Any]) -> list[str]:
        texts: list[str] = []
        errors: dict[int, InvalidInput] = {}
        for row, value in enumerate(given):
            try:
                texts.append(_text(value, self._options.max_characters))
            except InvalidInput as error:
                errors[row] = error
        if errors:
            raise RowsRefused.of(errors)
        return texts

    def _check_lengths(self, rows: Sequence[Sequence[int]]) -> None:
        most = self._options.max_length
        long = [row for row, ids in enumerate(rows) if len(ids) > most]
        if long:
            message = f"the text has more than {most} tokens"
            raise RowsRefused.of({row: InvalidInput(message, field=TEXT.name) for row in long})

    def _length(self, rows: Sequence[Sequence[int]]) -> int:
        options = self._options
        if isinstance(options.pad, int):
            return options.pad
        longest = max(1, *map(len, rows))
        return min(-(-longest // options.multiple) * options.multiple, options.max_length)

    def _padded(self, rows: Sequence[Sequence[int]], length: int, padding: int) -> Array:
        array = np.full((len(rows), length), padding, NUMPY_DTYPES[self._options.datatype])
        for place, row in zip(array, rows, strict=True):
            if row:
                place[length - len(row) if self._left else 0 :][: len(row)] = row
        return array


def load(
    folder: Path,
    model_digest: str,
    manifest_options: Mapping[str, Any],
    options: RuntimeOptions,
    load_member: MemberLoader,
) -> TokensRuntime:
    """The entry point ``tokens``. Raises ``CorruptArtifact`` for a file or options that cannot be read,
    ``FailedPrecondition`` if the library is not installed."""
    try:
        declared = msgspec.convert(dict(manifest_options), TokensOptions)
        return open_tokens(folder / FILE, declared)
    except (msgspec.ValidationError, InvalidInput) as error:
        raise CorruptArtifact("the tokens step is not valid", hint="push the pipeline again") from error


def open_tokens(path: Path, options: TokensOptions) -> TokensRuntime:
    """The tokenizer in the file ``path``. Raises ``InvalidInput`` for a file that holds none and for options that do
    not fit it, ``FailedPrecondition`` if the library is not installed."""
    options.check()
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise FailedPrecondition(
            "making tokens needs the package tokenizers", field="tokenizer", hint='pip install "keelway[text]"'
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        # The library raises bare exceptions.
        raise InvalidInput(
            f"{path.name} holds no tokenizer that can be read",
            field="tokenizer",
            hint="give the tokenizer.json of a fast tokenizer",
        ) from error
    return TokensRuntime(tokenizer, options)


def _padding_id(tokenizer: Tokenizer, token: str | None, padding: Mapping[str, Any]) -> int:
    if token is not None:
        known = tokenizer.token_to_id(token)
        if known is None:
            raise InvalidInput("tokens: pad_token is no token of this tokenizer", field="pad_token")
        return known
    if "pad_id" in padding:
        return int(padding["pad_id"])
    ids = (tokenizer.token_to_id(name) for name in _PADDING)
    # Without one, any id will do: the mask says that it counts for nothing.
    return next((known for known in ids if known is not None), 0)


def _text(value: Any, max_characters: int) -> str:
    if isinstance(value, bytes):
        if len(value) > 4 * max_characters:
            raise _too_long(max_characters)
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise InvalidInput("the text is not UTF-8", field=TEXT.name) from None
    if not isinstance(value, str):
        raise InvalidInput("the text is missing", field=TEXT.name)
    if len(value) > max_characters:
        raise _too_long(max_characters)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidInput("the text holds half a character", field=TEXT.name) from None
    return value


def _too_long(max_characters: int) -> InvalidInput:
    return InvalidInput(f"the text has more than {max_characters} characters", field=TEXT.name)
