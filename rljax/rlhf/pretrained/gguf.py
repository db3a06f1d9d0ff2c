"""Models in GGUF files, the format of llama.cpp: read, and written as Hugging Face folders.

References:
    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.extras import require
from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained.config import read_config
from rljax.rlhf.pretrained.files import PretrainedError, read_object, some
from rljax.rlhf.pretrained.gguf_tokenizer import special_ids, tokenizer_files
from rljax.rlhf.pretrained.weights import from_tensors, save_language_model
from rljax.training.files import one_line, write_atomically

Tensors = dict[str, Callable[[], np.ndarray]]


class GGUFFile(NamedTuple):
    """What a GGUF file holds.

    Attributes:
        path: the file's.
        fields: its metadata, by name; arrays are lists.
        tensors: a reader of every tensor, by name, which returns float32 numbers
            `[outputs, inputs]` or `[size]`, dequantised.
    """

    path: Path
    fields: dict[str, Any]
    tensors: Tensors


# The architectures that are shaped as Llama is, with those families' names.
_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_CONFIG = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
_OPTIONAL = ("attention.head_count_kv", "attention.key_length")
_ROPE = (
    "rope.freq_base", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length",
)  # fmt: skip
# The only values that we compute; other fields of an architecture are refused.
_ONLY = dict.fromkeys(
    ("expert_count", "expert_used_count", "attention.sliding_window"), 0
) | {"attention.causal": True}
_WITHOUT_EFFECT = (
    "vocab_size", "tensor_data_layout", "rope.scaling.finetuned",
    "attention.layer_norm_epsilon",
)  # fmt: skip

_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_output": "self_attn.o_proj",
    **{f"attn_{name}": f"self_attn.{name}_proj" for name in "qkv"},
    **{f"attn_{name}_norm": f"self_attn.{name}_norm" for name in "qk"},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_NAME = re.compile(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)")
_FREQUENCIES = "rope_freqs.weight"


def read_gguf(path: Path | str) -> GGUFFile:
    """Returns the metadata of a GGUF file, and readers of its tensors.

    Raises:
        PretrainedError: it is no whole GGUF file; or, when a tensor is read, it is of a
            type that cannot be dequantised, or has infinities or NaN.
    """
    gguf = require("gguf", "GGUF files need", "gguf")
    path = Path(path)
    if not path.is_file():
        raise PretrainedError(f"{path} is no file. Give the path of a GGUF file.")
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, LookupError, ArithmeticError) as error:
        raise PretrainedError(
            f"{path} is not a whole GGUF file: {one_line(error)}. Copy it anew."
        ) from error
    tensors: Tensors = {
        t.name: functools.partial(_read, path, t) for t in reader.tensors
    }
    return GGUFFile(path, fields, tensors)


def load_gguf(path: Path | str) -> tuple[Transformer, Any, dict[str, str]]:
    """Returns module and float32 variables of a GGUF file, and its tokenizer's files.

    The model is one of `llama` (Llama, Mistral, SmolLM2, ...), `qwen2` or `qwen3`, with
    weights of any type that the package `gguf` dequantises. The files are those of a
    Hugging Face folder, text by name.

    Raises:
        PretrainedError: the file does not hold such a model, whole and finite, or its
            tokenizer is of another kind.
    """
    return _load(read_gguf(path))


def convert_gguf(path: Path | str, folder: Path | str) -> None:
    """Writes a GGUF file as a Hugging Face folder, in float32, with its tokenizer.

    `load_language_model` and `load_tokenizer` read it, and so does transformers. Of
    several chat templates it has the one by default.

    Raises:
        PretrainedError: as `load_gguf`.
    """
    file, folder = read_gguf(path), Path(folder)
    module, variables, texts = _load(file)
    save_language_model(folder, module, variables)
    texts["config.json"] = _with_ids(folder / "config.json", special_ids(file.fields))
    for name, text in texts.items():
        write_atomically(folder / name, text)


def _load(file: GGUFFile) -> tuple[Transformer, Any, dict[str, str]]:
    config = _read_shape(file)
    tensors = _named_as_in_folders(file, config)
    params = from_tensors(config, tensors, file.path, head=True)
    if tensors:
        raise PretrainedError(
            f"{file.path} has tensors that its metadata has no place for: "
            f"{some(sorted(tensors))}. Convert the model anew with llama.cpp."
        )
    files = tokenizer_files(file.fields, file.path)
    return Transformer(config), {"params": params}, files


def _with_ids(path: Path, ids: dict[str, int]) -> str:
    return json.dumps(read_object(path) | ids, indent=2) + "\n"


def _read(path: Path, tensor: Any) -> np.ndarray:
    quants = require("gguf.quants", "GGUF files need", "gguf")
    kind = tensor.tensor_type
    try:
        array = quants.dequantize(tensor.data, kind).astype(np.float32, copy=False)
    except NotImplementedError as error:
        raise PretrainedError(
            f"{tensor.name} in {path} is of type {kind.name}, which the package gguf "
            f"does not dequantise. Convert the file to F16 or Q8_0 with llama-quantize."
        ) from error
    if not np.isfinite(array).all():
        raise PretrainedError(
            f"{tensor.name} in {path} has numbers that are not finite. Convert it anew."
        )
    return array


def _read_shape(file: GGUFFile) -> TransformerConfig:
    kind = file.fields.get("general.architecture")
    if kind not in _ARCHITECTURES:
        raise PretrainedError(
            f"general.architecture in {file.path} must be one of "
            f"{', '.join(_ARCHITECTURES)}, got {kind!r}. Give the model's Hugging Face "
            f"folder to load_language_model instead, which knows more families."
        )
    if (count := file.fields.get("split.count", 1)) > 1:
        raise PretrainedError(
            f"{file.path} is one of {count} files of a model. Merge them with "
            f"llama-gguf-split --merge."
        )
    given = {
        name.removeprefix(f"{kind}."): value
        for name, value in file.fields.items()
        if name.startswith(f"{kind}.")
    }
    _check_fields(given, kind, file.path)
    raw: dict[str, Any] = {"model_type": kind}
    for theirs, ours in _CONFIG.items():
        if theirs in given:
            raw[ours] = _shortest(given[theirs])
        elif theirs not in _OPTIONAL or (ours == "head_dim" and kind == "qwen3"):
            raise PretrainedError(
                f"{file.path} has no {kind}.{theirs}. Convert the model anew."
            )
    raw.setdefault("num_key_value_heads", raw["num_attention_heads"])
    raw["vocab_size"] = len(_tensor(file, "token_embd.weight"))
    raw["tie_word_embeddings"] = "output.weight" not in file.tensors
    if kind == "llama":
        raw["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        raw["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    config = read_config(raw | _read_rope(given), file.path)
    _check_head_dim(given, config, kind, file.path)
    return _with_frequencies(config, file)


def _check_fields(given: dict[str, Any], kind: str, path: Path) -> None:
    known = {*_CONFIG, *_ROPE, *_ONLY, *_WITHOUT_EFFECT, *_HEAD_DIM}
    if unknown := sorted(set(given) - known):
        raise PretrainedError(
            f"{path} has {kind}.{unknown[0]}, which may change what the model computes "
            f"and is not supported. Give the model's Hugging Face folder instead."
        )
    for name, only in _ONLY.items():
        if given.get(name, only) != only:
            raise PretrainedError(
                f"{kind}.{name} in {path} must be {only}, got {given[name]}. Such a "
                f"model is not supported."
            )
    scaling = given.get("rope.scaling.type", "none")
    if scaling not in ("none", "linear", "yarn"):
        raise PretrainedError(
            f"{kind}.rope.scaling.type in {path} must be none, linear or yarn, got "
            f"{scaling!r}. Such a model is not supported."
        )


_HEAD_DIM = ("attention.key_length", "attention.value_length", "rope.dimension_count")


def _check_head_dim(
    given: dict[str, Any], config: TransformerConfig, kind: str, path: Path
) -> None:
    for name in _HEAD_DIM:
        if given.get(name, config.head_dim) != config.head_dim:
            raise PretrainedError(
                f"{kind}.{name} in {path} must be the size of a head, "
                f"{config.head_dim}, got {given[name]}. Such a model is not supported."
            )


def _read_rope(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of `config.json` for rotary positions."""
    raw: dict[str, Any] = {"rope_theta": _shortest(given.get("rope.freq_base", 1e4))}
    kind = given.get("rope.scaling.type", "none")
    if kind != "none":
        raw["rope_scaling"] = {
            "rope_type": kind,
            "factor": _shortest(given.get("rope.scaling.factor", 1.0)),
        }
        length = given.get("rope.scaling.original_context_length")
        if length is not None:
            raw["rope_scaling"]["original_max_position_embeddings"] = length
    return raw


def _with_frequencies(config: TransformerConfig, file: GGUFFile) -> TransformerConfig:
    """Returns the shape with Llama 3.1's slower waves, where the file has them.

    The file has by how much each is slower, and not by which rule; there is one in use.
    """
    if _FREQUENCIES not in file.tensors or config.rope is None:
        return config
    slower = _tensor(file, _FREQUENCIES)
    rope = Rope(
        theta=config.rope.theta,
        factor=float(slower.max()),
        stretch="llama3",
        original_max_length=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )
    usual = Rope(theta=config.rope.theta).frequencies(config.head_dim)
    want = usual / rope.frequencies(config.head_dim)
    if slower.shape != want.shape or not np.allclose(slower, want, rtol=1e-4):
        raise PretrainedError(
            f"{_FREQUENCIES} in {file.path} must be Llama 3.1's, of 8,192 tokens "
            f"stretched, got {slower[:3]}... Give the model's Hugging Face folder "
            f"instead."
        )
    return dataclasses.replace(config, rope=rope)


def _tensor(file: GGUFFile, name: str) -> np.ndarray:
    if name not in file.tensors:
        raise PretrainedError(
            f"{file.path} has no {name}: it is not whole. Copy it anew."
        )
    return file.tensors[name]()


def _named_as_in_folders(file: GGUFFile, config: TransformerConfig) -> Tensors:
    """Returns readers by the names, and in the layout, of Hugging Face folders."""
    permuted = file.fields["general.architecture"] == "llama"
    heads = {"attn_q": config.num_heads, "attn_k": config.num_kv_heads}
    tensors: Tensors = {}
    for name, reader in file.tensors.items():
        if name == _FREQUENCIES:
            continue
        match = _NAME.fullmatch(name)
        block, part, leaf = match.groups() if match else (None, name, "")
        known = _TENSORS if block is None else _PARTS
        if part not in known:
            raise PretrainedError(
                f"{file.path} has a tensor {name}, for which a model of this kind has "
                f"no place. Give the model's Hugging Face folder instead."
            )
        prefix = "" if block is None else f"model.layers.{block}."
        if permuted and part in heads:
            reader = functools.partial(_in_halves, reader, heads[part])
        tensors[f"{prefix}{known[part]}.{leaf}"] = reader
    return tensors


def _in_halves(reader: Callable[[], np.ndarray], num_heads: int) -> np.ndarray:
    """Returns a weight `[outputs, ...]` with the rows of each head as transformers has them.

    llama.cpp rotates neighbours, so its converter writes the two halves of a head that
    transformers rotates as pairs.
    """
    array = reader()
    pairs = array.reshape(num_heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)


def _shortest(value: Any) -> Any:
    """Returns a float32 as the shortest decimal that reads back as it; others as is."""
    return float(str(np.float32(value))) if isinstance(value, float) else value
