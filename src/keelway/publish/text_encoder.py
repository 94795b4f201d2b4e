"""A folder of a Hugging Face text encoder: its tokenizer becomes a step of a pipeline, the network behind it ONNX.

Sentence-transformers' files say how the tokens' states become one embedding; without them it is their mean. The network
is built by the library ``transformers`` from its own code, never from code in the folder. ``push.py`` calls the
parent's half, ``child.py`` the other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from keelway.contract.sample import column_kind
from keelway.errors import ConversionRefused, CorruptArtifact, FailedPrecondition, InvalidInput, UntrustedArtifact
from keelway.publish import exchange
from keelway.publish.apart import run_apart
from keelway.publish.examples import SAMPLE_KIND, Batch
from keelway.publish.exchange import EncoderRequest, NetworkResult, Pooling
from keelway.publish.network import TOLERANCE, judged_network
from keelway.publish.report import Prepared, Tokenized
from keelway.publish.rows import Rows, rows_of
from keelway.runtimes.tokens import FILE, TokensOptions, TokensRuntime, open_tokens
from keelway.types import Array

if TYPE_CHECKING:
    import pandas as pd

CONFIG: Final = "config.json"
_MODULES: Final = "modules.json"
_SAFE: Final = ("model.safetensors", "model.safetensors.index.json")
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")

#: Texts of the sample that the proof uses, in a batch and one by one; and lengths in tokens that it also tries.
_TEXTS, _BATCH, _SINGLES = 128, 16, 8
_LENGTHS: Final = (2, 7, 33)

#: Longest sequence where nothing in the folder says otherwise.
_LENGTH: Final = 512


# The parent


def is_encoder(folder: Path) -> bool:
    """Whether the folder is one that ``save_pretrained`` of transformers wrote."""
    config = _json(folder / CONFIG)
    return isinstance(config, dict) and "model_type" in config


def prepare_encoder(
    folder: Path,
    sample: pd.DataFrame | None,
    *,
    trust_pickle: bool,
    tolerance: float | None,
    workspace: Path,
    progress: Callable[[str], None],
) -> Prepared:
    """The encoder in ``folder``, for text to embedding. ``sample`` may hold a column of texts for the proof.

    Raises ``FailedPrecondition`` without a tokenizer, ``InvalidInput`` for a folder or a sample that does not fit,
    ``UntrustedArtifact`` for weights in a pickle, ``ConversionRefused`` for a model that needs code of its own.
    """
    config = _json(folder / CONFIG)
    if not (folder / FILE).is_file():
        raise FailedPrecondition(
            f"the folder has no {FILE}, so that text cannot become tokens",
            field="file",
            hint="write it: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    if "auto_map" in config:
        raise ConversionRefused(
            "the model needs code of its own, which the folder names (auto_map)",
            field="file",
            hint="make it in a function of yours that you trust: --from-python package.module:function",
        )
    pickled = not any((folder / name).is_file() for name in _SAFE)
    if pickled and not any((folder / name).is_file() for name in _PICKLES):
        raise InvalidInput("the folder has no weights", field="file", hint=f"it has to hold {_SAFE[0]}")
    if pickled and not trust_pickle:
        raise UntrustedArtifact(
            "the weights are a pickle, which runs code when it is opened",
            field="file",
            hint="save them again as safetensors: AutoModel.from_pretrained(folder).save_pretrained(folder); or say "
            "--trust-pickle if you trust whoever made it",
        )
    pooling, guessed = _pooling(folder)
    options = TokensOptions(max_length=_max_length(folder, config))
    if sample is not None:
        rows_of(_texts(sample)).save(workspace / exchange.SAMPLE)
    allowed = TOLERANCE if tolerance is None else tolerance
    request = EncoderRequest(str(folder.resolve()), options, pooling, pickled, allowed)
    exchange.write(workspace, exchange.REQUEST, request)
    progress("opening and converting the encoder, in a process of its own")
    run_apart(workspace)
    progress("proving the conversion")
    result = exchange.read(workspace, exchange.RESULT, NetworkResult)
    source = f"a {config['model_type']} text encoder with its tokenizer"
    prepared = judged_network(result, source, None, allowed, workspace)
    report = prepared.report
    if guessed:
        warning = (
            "the folder does not say how the tokens' states become one embedding (modules.json): it is their mean, "
            "of any length"
        )
        report = msgspec.structs.replace(report, warnings=(*report.warnings, warning))
    return replace(prepared, report=report, tokenized=Tokenized(folder / FILE, options))


def _texts(sample: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in sample.columns if column_kind(sample[name]) == "text"]
    if len(names) != 1:
        raise InvalidInput(
            f"the sample has {len(names)} columns of text, the encoder takes one",
            field="sample",
            hint="give a table with one column of texts",
        )
    return sample[names].dropna()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"{path.name} of the folder cannot be read", field="file") from error


def _max_length(folder: Path, config: dict[str, Any]) -> int:
    """The longest sequence in tokens, by whichever file says the least."""
    positions = config.get("max_position_embeddings", _LENGTH)
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):  # two are kept for padding
        positions -= 2
    said = [
        positions,
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        _json(folder / "tokenizer_config.json").get("model_max_length"),
    ]
    return min(int(length) for length in said if isinstance(length, int | float) and 0 < length < 1e9)


def _pooling(folder: Path) -> tuple[Pooling, bool]:
    """How the tokens' states become one embedding, and whether that is a guess. ``ConversionRefused`` otherwise."""
    modules = _json(folder / _MODULES)
    if not modules:
        return Pooling("mean", normalized=False), True
    how, normalized = "mean", False
    for module in modules:
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            how = _pooled_by(_json(folder / str(module["path"]) / CONFIG))
        elif kind == "Normalize":
            normalized = True
        elif kind != "Transformer":
            how = ""
        if not how:
            raise ConversionRefused(
                f"the encoder ends in a step that keelway does not know ({kind})",
                field="file",
                hint="write the whole of it as a module: --from-python package.module:function",
            )
    return Pooling(how, normalized), False  # type: ignore[arg-type]


def _pooled_by(config: dict[str, Any]) -> str:
    named = config.get("pooling_mode")
    flags = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}
    if isinstance(named, str):
        return named if named in flags else ""
    on = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    return next((how for how, flag in flags.items() if on == [f"pooling_mode_{flag}"]), "")


# The child


def ask_encoder(request: EncoderRequest, folder: Path) -> NetworkResult:
    """Build the encoder, ask it on texts and on sequences of any length, and convert it."""
    from keelway.publish.asking_network import ask_network

    network, taken, vocabulary = _built(request)
    tokens = msgspec.structs.replace(request.tokens, token_type_ids="token_type_ids" in taken)
    tokenizer = open_tokens(Path(request.folder) / FILE, tokens)
    made = [*_of_texts(tokenizer, _given_texts(folder)), *_random(taken, vocabulary, tokens)]
    free = dict.fromkeys(taken, (1,))
    result = ask_network(network, made[0].arrays, free, request.tolerance, folder, made)
    from transformers import __version__ as version

    return msgspec.structs.replace(result, versions={"transformers": version, **result.versions})


def _built(request: EncoderRequest) -> tuple[Any, list[str], int]:
    """The encoder with its pooling as a module, the names of what it takes, and the number of tokens it knows."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(request.folder, local_files_only=True, trust_remote_code=False)
        encoder = AutoModel.from_pretrained(
            request.folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=not request.pickled,
        )
    except Exception as error:
        raise ConversionRefused(
            f"transformers cannot build the model ({type(error).__name__})",
            field="file",
            hint="see what AutoModel.from_pretrained(folder) says; the version of transformers may be older than the "
            "model's",
        ) from error
    taken = ["input_ids", "attention_mask"]
    if getattr(config, "type_vocab_size", 0) > 1:
        taken.append("token_type_ids")
    return _pooled(encoder, request.pooling), taken, int(config.vocab_size)


def _pooled(encoder: Any, pooling: Pooling) -> Any:
    import torch

    class Encoder(torch.nn.Module):
        """``embedding`` [b, d] of the tokens that the mask keeps."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> dict[str, Any]:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **types).last_hidden_state
            kept = attention_mask.unsqueeze(-1).to(states.dtype)
            if pooling.how == "cls":
                pooled = states[:, 0]
            elif pooling.how == "max":
                pooled = states.masked_fill(kept == 0, -1e9).amax(1)
            else:
                pooled = (states * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
            return {"embedding": torch.nn.functional.normalize(pooled, dim=-1) if pooling.normalized else pooled}

    Encoder.__name__ = type(encoder).__name__
    return Encoder()


def _given_texts(folder: Path) -> list[str]:
    path = folder / exchange.SAMPLE
    if not path.exists():
        return []
    texts = list(next(iter(Rows.load(path).columns.values())))
    return [texts[at] for at in np.linspace(0, len(texts) - 1, min(len(texts), _TEXTS)).astype(int)]


def _of_texts(tokenizer: TokensRuntime, texts: Sequence[str]) -> list[Batch]:
    """Batches of the texts as the tokenizer step will make them; of its own example where there are none."""
    names = [spec.name for spec in tokenizer.outputs]
    every = np.array(list(texts) or list(tokenizer.examples["text"]), object)

    def batch(kind: str, part: Array) -> Batch:
        return Batch(kind, dict(zip(names, tokenizer.run({"text": part}, names), strict=True)))

    made = [batch(SAMPLE_KIND, every[start : start + _BATCH]) for start in range(0, len(every), _BATCH)]
    return made + [batch("one by one", every[at : at + 1]) for at in range(min(len(every), _SINGLES))]


def _random(taken: Sequence[str], vocabulary: int, tokens: TokensOptions) -> list[Batch]:
    """Sequences of any tokens, of several lengths up to the longest, padded as in company of longer ones."""
    random = np.random.default_rng(0)
    made = []
    for length in sorted({min(length, tokens.max_length) for length in (*_LENGTHS, tokens.max_length)}):
        rows = 8 if length <= _LENGTHS[-1] else 2
        lengths = random.integers(1, length + 1, rows)
        lengths[0] = length
        mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
        arrays = {
            "input_ids": random.integers(0, vocabulary, (rows, length)) * mask,
            "attention_mask": mask,
            "token_type_ids": np.zeros((rows, length), np.int64),
        }
        made.append(Batch("any tokens", {name: arrays[name] for name in taken}))
    return made
