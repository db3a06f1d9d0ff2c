"""Heads on a frozen language model: its features, grids of heads, and their accuracy.

A grid is every combination of a split of the comparisons, a layer and a weight of the
penalty: S x K x R heads, fitted by one compiled program.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.rlhf import load_language_model, load_tokenizer
from rljax.rlhf.data import Pair, encoding_config
from rljax.rlhf.data.encoding import EncodingError, encode_pairs
from rljax.rlhf.evaluation import k_folds
from rljax.rlhf.frozen.features import frozen_features
from rljax.rlhf.frozen.heads import (
    Head,
    HeadHyperparams,
    JudgedTexts,
    fit_heads,
    prepare,
)
from rljax.training.files import RunError
from rljax.training.loggers import log_line

_PART = 1_000  # texts whose features are kept at once


class Material(NamedTuple):
    """A model, and texts with what it makes of them.

    Attributes:
        module: the language model.
        variables: its parameters.
        ids: `[T, L]` int32.
        lengths: `[T]` int32.
        features: `[K, T, D]` float32, of the last tokens after each of K layers.
    """

    module: Any
    variables: Any
    ids: np.ndarray
    lengths: np.ndarray
    features: np.ndarray


def read_material(
    folder: Path,
    texts: Sequence[str],
    question: tuple[str, str],
    *,
    max_length: int,
    layers: Sequence[int],
    cache: Path,
) -> Material:
    """Returns a folder's language model, the tokens of T texts, and their features."""
    ids, lengths = encode(load_tokenizer(folder), texts, question, max_length)
    module, variables = load_language_model(folder)
    features = features_in_parts(module, variables, ids, lengths, layers, cache)
    return Material(module, variables, ids, lengths, features)


def encode(
    tokenizer: Any, texts: Sequence[str], question: tuple[str, str], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids `[T, L]` and lengths `[T]` of texts, within a question.

    Features are read at the question's end: a model has its opinion ready where it is about
    to give it. Longer texts lose their beginning.

    Args:
        tokenizer: the model's.
        texts: T of them.
        question: what stands before each text, and after it.
        max_length: of a row, in tokens.
    """
    rows = [Pair(question[0] + text, question[1]) for text in texts]
    encoding = encoding_config(
        tokenizer, max_length=max_length, template=False, eos=False
    )
    found = encode_pairs(tokenizer, rows, encoding)
    if errors := [one for one in found if isinstance(one, EncodingError)]:
        raise RunError(f"{len(errors)} texts cannot be encoded, one as {errors[0]}")
    encoded = [one.ids for one in found if not isinstance(one, EncodingError)]
    lengths = np.array([len(ids) for ids in encoded], np.int32)
    ids = np.zeros((len(encoded), lengths.max()), np.int32)
    for row, some in zip(ids, encoded, strict=True):
        row[: len(some)] = some
    return ids, lengths


def features_in_parts(
    module: Any,
    variables: Any,
    ids: np.ndarray,
    lengths: np.ndarray,
    layers: Sequence[int],
    cache: Path,
) -> np.ndarray:
    """Returns features `[K, T, D]` of texts' last tokens after each of K layers.

    A thousand texts of like length are kept at a time: what was computed before an
    interruption is not computed again.
    """
    order = np.argsort(lengths, kind="stable")
    features = np.zeros((len(layers), len(ids), module.config.hidden_size), np.float32)
    for start in range(0, len(order), _PART):
        part = order[start : start + _PART]
        cut = ids[part, : lengths[part].max()]
        features[:, part] = frozen_features(
            module, variables, cut, lengths[part], layers=layers, cache=cache
        )
        log_line(f"features of {start + len(part):,} of {len(order):,} texts")
    return features


def fit_grid(
    features: np.ndarray, pairs: np.ndarray, weights: np.ndarray, l2: Sequence[float]
) -> Head:
    """Returns heads with leading axes `[S, K, R]`, of all splits, layers and penalties.

    Args:
        features: `[K, T, D]`.
        pairs: `[P, 2]`, numbers of the chosen and the rejected text.
        weights: `[S, P]`, how often each pair counts in each split.
        l2: R weights of the penalty.
    """
    shape = len(weights), len(features), len(l2)
    split, layer, place = np.indices(shape).reshape(3, -1)
    grid = HeadHyperparams(l2=np.asarray(l2)[place], layer=layer, split=split)  # type: ignore[arg-type]
    heads = fit_heads(prepare(features), JudgedTexts.of(pairs), grid, weights)
    return jax.tree.map(lambda x: np.asarray(x).reshape(*shape, *x.shape[1:]), heads)


def grid_scores(heads: Head, features: np.ndarray) -> np.ndarray:
    """Returns scores `[S, K, R, T]` of all texts; a head's bias is left out."""
    kernels = np.asarray(heads.kernel)
    scores = [kernels[:, k] @ layer.T for k, layer in enumerate(features)]
    return np.stack(scores, axis=1)


def best(accuracies: np.ndarray) -> tuple[int, int]:
    """Returns the layer and the penalty of the highest of accuracies `[K, R]`.

    Of equal ones, the first layer and the strongest penalty.
    """
    layer, place = np.argwhere(accuracies[:, ::-1] == accuracies.max())[0]
    return int(layer), accuracies.shape[1] - 1 - int(place)


def cross_validated(
    features: np.ndarray,
    pairs: np.ndarray,
    groups: np.ndarray,
    l2: Sequence[float],
    *,
    seed: int,
) -> tuple[np.ndarray, list[np.ndarray], list[tuple[int, int]]]:
    """Returns scores `[P, 2]` of pairs under heads that were fitted to others.

    And the pairs that each of five folds learned from, and the layer and the penalty that
    it chose. It chooses by a fifth of those, which other heads do not learn from.

    Args:
        features: `[K, T, D]`.
        pairs: `[P, 2]`, numbers of the chosen and the rejected text.
        groups: `[P]`, those of a group are in the same fold.
        l2: R weights of the penalty.
        seed: of the folds.
    """
    folds = k_folds(len(pairs), 5, seed=seed, groups=groups)
    weights = np.zeros((2, len(folds), len(pairs)), np.float32)
    held_out = []
    for fold, (rows, _) in enumerate(folds):
        fitted, held = k_folds(len(rows), 5, seed=seed, groups=groups[rows])[0]
        weights[0, fold, rows], weights[1, fold, rows[fitted]] = 1, 1
        held_out.append(rows[held])
    heads = fit_grid(features, pairs, weights.reshape(-1, len(pairs)), l2)
    scores = grid_scores(heads, features)[..., pairs]
    whole, partly = scores.reshape(2, len(folds), *scores.shape[1:])
    found, chosen = np.zeros(pairs.shape), []
    for fold, (_, rows) in enumerate(folds):
        seen = partly[fold][:, :, held_out[fold]]
        layer, place = best(((1 + np.sign(seen[..., 0] - seen[..., 1])) / 2).mean(-1))
        found[rows] = whole[fold, layer, place, rows]
        chosen.append((layer, place))
    return found, [rows for rows, _ in folds], chosen
