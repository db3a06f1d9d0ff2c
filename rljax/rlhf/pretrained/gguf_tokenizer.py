"""The tokenizer in the metadata of a GGUF file, as the files of a Hugging Face folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rljax.rlhf.pretrained.files import PretrainedError

_CONTROL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type

# llama.cpp's names of ways to split text before the merges, and their expressions.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
_SPLITS = {"gpt-2": None} | dict.fromkeys(_DIGITS)
_SPLITS |= dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _LLAMA3)
_SPLITS |= dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2)


def special_ids(fields: dict[str, Any]) -> dict[str, int]:
    """Returns the ids that `config.json` names: those of `bos_token_id` and so on."""
    names = {
        "bos_token_id": "bos_token_id",
        "eos_token_id": "eos_token_id",
        "pad_token_id": "padding_token_id",
    }
    return {
        ours: fields[f"tokenizer.ggml.{theirs}"]
        for ours, theirs in names.items()
        if f"tokenizer.ggml.{theirs}" in fields
    }


def tokenizer_files(fields: dict[str, Any], path: Path) -> dict[str, str]:
    """Returns `tokenizer.json` and `tokenizer_config.json`, text by name.

    Args:
        fields: the file's metadata.
        path: the file's, for errors.

    Raises:
        PretrainedError: the metadata has no tokenizer, or one of another kind.
    """
    kind = fields.get("tokenizer.ggml.model")
    tokens = fields.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama") or not tokens:
        raise PretrainedError(
            f"tokenizer.ggml.model in {path} must be gpt2 or llama, with its tokens, "
            f"got {kind!r}. Give the model's Hugging Face folder instead."
        )
    split = fields.get("tokenizer.ggml.pre")
    if kind == "gpt2" and split not in _SPLITS:
        raise PretrainedError(
            f"tokenizer.ggml.pre in {path} must be one of {', '.join(_SPLITS)}, got "
            f"{split!r}. Give the model's Hugging Face folder instead."
        )
    try:
        return _files(fields, _byte_level if kind == "gpt2" else _sentence_piece)
    except (LookupError, TypeError, ValueError) as error:
        raise PretrainedError(
            f"the tokenizer in {path} is not whole: {error!r}. Convert the model anew."
        ) from error


def _files(
    fields: dict[str, Any], build: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, str]:
    whole = {"version": "1.0", "truncation": None, "padding": None} | build(fields)
    whole["added_tokens"] = _added(fields)
    whole["post_processor"] = _around_texts(fields)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= _special(fields)
    config["clean_up_tokenization_spaces"] = False
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    return {
        "tokenizer.json": json.dumps(whole, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def _byte_level(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of BPE over bytes, as GPT-2 has it."""
    name = fields["tokenizer.ggml.pre"]
    split = _SPLITS[name]
    steps: list[dict[str, Any]] = []
    if name in _DIGITS:
        steps.append({"type": "Digits", "individual_digits": True})
    if split is not None:
        pattern = {"type": "Split", "pattern": {"Regex": split}}
        steps.append(pattern | {"behavior": "Isolated", "invert": False})
    steps.append(_bytes_as_text(use_regex=split is None))
    merges = [merge.split(" ") for merge in fields["tokenizer.ggml.merges"]]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": _bytes_as_text(use_regex=True),
        "model": _bpe(fields, merges, ignore_merges=split == _LLAMA3),
    }


def _bytes_as_text(*, use_regex: bool) -> dict[str, Any]:
    options = {"add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}
    return {"type": "ByteLevel"} | options


def _sentence_piece(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the parts of BPE over words that begin with a mark, as Llama 2 has it."""
    mark = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    space = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    begins = fields.get("tokenizer.ggml.add_space_prefix", True)
    first = [{"type": "Prepend", "prepend": "▁"}] if begins else []
    last = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [space, {"type": "ByteFallback"}, {"type": "Fuse"}]
    tokens = fields["tokenizer.ggml.tokens"]
    unknown = fields.get("tokenizer.ggml.unknown_token_id")
    model = _bpe(fields, _merges(tokens, fields["tokenizer.ggml.scores"]))
    model |= {"byte_fallback": True, "fuse_unk": True}
    model["unk_token"] = None if unknown is None else tokens[unknown]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*first, mark]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders + [last] * begins},
        "model": model,
    }


def _merges(tokens: list[str], scores: list[float]) -> list[list[str]]:
    """Returns merges in an order that gives the pieces that the scores give.

    A piece is made of any two that are pieces; of two merges the one of the higher score
    comes first, and of equal ones the longer.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    found = []
    for token, score in zip(tokens, scores, strict=True):
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        pairs = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
        pairs.sort(key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        found += [(score, len(a), len(b), a, b) for a, b in pairs]
    found.sort(key=lambda row: row[:3], reverse=True)
    return [[a, b] for *_, a, b in found]


def _bpe(
    fields: dict[str, Any], merges: list[list[str]], *, ignore_merges: bool = False
) -> dict[str, Any]:
    options = dict.fromkeys(
        ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    )
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    return {
        "type": "BPE",
        **options,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    }


def _added(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the tokens that are found in a text before it is split."""
    tokens = fields["tokenizer.ggml.tokens"]
    kinds = fields.get("tokenizer.ggml.token_type", [1] * len(tokens))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = {fields.get(f"tokenizer.ggml.{name}") for name in _NAMES.values()}
    return [
        {"id": i, "content": token, **plain, "special": kind != _USER_DEFINED}
        for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER_DEFINED) or i in special
    ]


_NAMES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}


def _special(fields: dict[str, Any]) -> dict[str, str]:
    return {
        name: token for name, key in _NAMES.items() for token in _token(fields, key)
    }


def _around_texts(fields: dict[str, Any]) -> dict[str, Any] | None:
    """Returns what puts tokens before and after every text, None if nothing does."""
    # As llama.cpp has it for files without the field.
    kind, split = fields["tokenizer.ggml.model"], fields.get("tokenizer.ggml.pre")
    begins = kind == "llama" or _SPLITS.get(str(split)) == _LLAMA3
    begins = fields.get("tokenizer.ggml.add_bos_token", begins)
    ends = fields.get("tokenizer.ggml.add_eos_token", False)
    before = _token(fields, "bos_token_id") if begins else {}
    after = _token(fields, "eos_token_id") if ends else {}
    if not before and not after:
        return None

    def template(*texts: str) -> list[dict[str, Any]]:
        parts = []
        for number, text in enumerate(texts):
            around = (
                ("SpecialToken", before),
                ("Sequence", [text]),
                ("SpecialToken", after),
            )
            parts += [
                {kind: {"id": one, "type_id": number}}
                for kind, ids in around
                for one in ids
            ]
        return parts

    return {
        "type": "TemplateProcessing",
        "single": template("A"),
        "pair": template("A", "B"),
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]}
            for token, i in (before | after).items()
        },
    }


def _token(fields: dict[str, Any], name: str) -> dict[str, int]:
    """Returns a special token and its id; nothing if there is none."""
    index = fields.get(f"tokenizer.ggml.{name}")
    return {} if index is None else {fields["tokenizer.ggml.tokens"][index]: index}
