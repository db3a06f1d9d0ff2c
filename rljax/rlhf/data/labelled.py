r"""Completions that are desirable or not: unpaired preferences, as TRL calls them.

{"prompt": ..., "completion": ..., "label": true}
{"prompt": ..., "chosen": ..., "rejected": ...}         one of each label
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rljax.rlhf.data.datasets import DataError, Labels, Records, forms_of, labels_of
from rljax.rlhf.data.encoding import EncodingConfig
from rljax.rlhf.data.forms import Columns, FormError
from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.rows import LabelledCompletions
from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.rlhf.data.training_sets import Building, TrainingSet


class Labelled(NamedTuple):
    """A completion with its prompt, and whether it is desirable."""

    example: Example
    label: bool


def read_labelled(
    path: Path | str,
    *,
    columns: Columns | None = None,
    labels: Labels | None = None,
    skip_bad: bool = False,
) -> Records[Labelled]:
    """Returns the labelled completions of a file; a preference has one of each label.

    Args:
        path: the file.
        columns: what the columns of prompts and completions are called.
        labels: what the column of the label is called, which holds true or false.
        skip_bad: pass over rows that cannot be read, and count them.
    """
    read = functools.partial(_labelled, columns=columns, labels=labels or Labels())
    return Records(path, read, skip_bad=skip_bad)


def tokenize_labelled(
    tokenizer: Tokenizer,
    encoding: EncodingConfig,
    labelled: Iterable[Labelled],
    *,
    vocab_size: int | None = None,
    max_bytes: int | None = None,
    multiple: int = 8,
) -> TrainingSet[LabelledCompletions]:
    """Returns labelled completions as token ids, each with a completion of another prompt.

    That is the completion of the last row before it with a different prompt, or of the
    row before it where there is none; the first row comes after the last.

    Args:
        tokenizer: the model's.
        encoding: how a pair becomes a row.
        labelled: what `read_labelled` returns, or any others.
        vocab_size: ids that the model embeds, above which there must be none.
        max_bytes: how large the rows may be.
        multiple: of tokens that rows are padded to, at most the encoding's `max_length`.

    Raises:
        DataError: nothing is left, all have the same label, a token is not the model's,
            or the rows are too large.

    References:
        Ethayarajh et al. (2024), https://arxiv.org/abs/2402.01306, section 4.1.
    """
    build = Building("labelled completions", labelled, tokenizer, encoding, vocab_size)
    texts, starts, records = build.learned(lambda one: one.example)
    counts = build.finish()
    labels = np.array([bool(one.label) for one in records])
    if labels.all() or not labels.any():
        kind = "desirable" if labels.all() else "undesirable"
        raise DataError(
            f"all {counts.kept:,} labelled completions are {kind}, from which a model "
            f"learns no difference. Give some of both labels."
        )
    prompts = [text[:start] for text, start in zip(texts, starts, strict=True)]
    mixed = [
        np.concatenate([prompt, texts[i][starts[i] :]])[: encoding.max_length]
        for prompt, i in zip(prompts, _of_other_prompts(prompts), strict=True)
    ]
    more = 4 * 2 * len(texts) + labels.nbytes
    padded, lengths = build.pad([*texts, *mixed], multiple, max_bytes, more)
    rows = LabelledCompletions(
        ids=jnp.asarray(padded.reshape(2, len(texts), -1).swapaxes(0, 1)),
        lengths=jnp.asarray(lengths.reshape(2, -1).T),
        starts=jnp.asarray(np.array([starts, starts], np.int32).T),
        labels=jnp.asarray(labels),
    )
    return TrainingSet(rows, counts, np.array(build.kept))


def _of_other_prompts(prompts: list[np.ndarray]) -> list[int]:
    """Returns for each row the last before it whose prompt is another."""
    keys, size = [prompt.tobytes() for prompt in prompts], len(prompts)
    found, last = [(i - 1) % size for i in range(size)], None
    for i in range(-size, size):  # twice around, since the last come before the first
        if keys[(i - 1) % size] != keys[i]:
            last = (i - 1) % size
        if last is not None:
            found[i] = last
    return found


def _labelled(
    row: dict[str, Any], *, columns: Columns | None, labels: Labels
) -> list[Labelled]:
    found, fields = forms_of(row, columns, labels), labels_of(row, labels)
    if "chosen" in found:
        return [
            Labelled(example, name == "chosen")
            for name, examples in found.items()
            for example in examples
        ]
    examples = [example for some in found.values() for example in some]
    label = fields.get("label")
    if label not in (True, False) or len(examples) != 1:
        raise FormError(
            f"it needs one completion, and {labels.label!r} that is true or false, got "
            f"{len(examples)} and {label!r:.40}"
        )
    return [Labelled(examples[0], bool(label))]
