"""Heads on frozen features: linear rewards, fitted to the end, thousands in one program.

A head minimizes, over its kernel k on features that have unit variance,

    mean over comparisons of the Bradley-Terry loss + l2 |k|^2,

which has one minimum: no learning rate, no order of batches, no seed. A grid of heads
(regularization x layer x split of the comparisons) is one compiled program; heads of one
layer share its matrix products, and each feature is read once for all of them.

    features = frozen_features(module, variables, texts.ids, texts.lengths)
    heads = fit_heads(prepare(features), JudgedTexts.of(texts.pairs), hyperparams)
    scores = head_scores(heads, features[layer])
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.numerics.validation import check_at_least, check_ranges
from rljax.rlhf.frozen.conjugate_gradients import minimize
from rljax.rlhf.frozen.features import first_layers
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.training.losses import bradley_terry_loss, regression_loss

_HIGHEST = jax.lax.Precision.HIGHEST  # a GPU would round products to 10 bits


class JudgedTexts(struct.PyTreeNode):
    """Which of two texts is preferred.

    Attributes:
        pairs: `[P, 2]` int32, numbers of the chosen and the rejected text.
        probs: `[P]` float32, the probability that the first is preferred.
    """

    pairs: jax.Array
    probs: jax.Array

    @classmethod
    def of(cls, pairs: Any, probs: Any = None) -> "JudgedTexts":
        """Returns comparisons of which we are sure, unless `probs` are given."""
        pairs = jnp.asarray(pairs, jnp.int32)
        probs = jnp.ones(len(pairs)) if probs is None else jnp.asarray(probs)
        return cls(pairs, probs.astype(jnp.float32))


class RatedTexts(struct.PyTreeNode):
    """Numbers that texts are rated with: heads on them are ridge regressions.

    Attributes:
        ratings: `[T]` float32, one for each text.
    """

    ratings: jax.Array


class HeadHyperparams(struct.PyTreeNode):
    """What heads differ in; `rljax.training.populations.stack` makes many of one.

    Attributes:
        l2: weight of the penalty, above 0; 0.01 is a good start for hundreds of features
            and thousands of pairs.
        layer: which of the K layers' features.
        split: which of the S rows of weights.
    """

    l2: float = 0.01
    layer: int = 0
    split: int = 0


class Head(struct.PyTreeNode):
    """A linear reward, or many with a leading axis.

    Attributes:
        kernel: `[D]` float32, of features as they are: standardizing is folded in.
        bias: scalar float32, by which the mean score in training is 0, or for ratings
            their mean.
        loss: scalar, mean over what it was fitted on, without the penalty.
        residual: scalar, the gradient that is left, relative to that at kernel 0.
        num_iterations: scalar int32, products with the features, each way.
    """

    kernel: jax.Array
    bias: jax.Array
    loss: jax.Array
    residual: jax.Array
    num_iterations: jax.Array


class PreparedFeatures(struct.PyTreeNode):
    """Features and what makes every fit on them quick: the axes in which they vary.

    Attributes:
        values: `[K, T, D]` float32, of T texts after each of K layers.
        means: `[K, D]`, over the texts.
        axes: `[K, D, D]`, eigenvectors of their correlations, one a column.
        variances: `[K, D]`, along these.
    """

    values: jax.Array
    means: jax.Array
    axes: jax.Array
    variances: jax.Array


class _Layer(NamedTuple):
    """One layer's features `[T, D]`, without their mean, and the axes of them."""

    values: jax.Array
    axes: jax.Array
    variances: jax.Array


def prepare(features: np.ndarray | jax.Array) -> PreparedFeatures:
    """Returns features `[K, T, D]` with their axes, found on the host once a layer.

    The axes only set the pace of fits, never their result: texts that are held out may
    be among the T.

    Raises:
        ValueError: the shape is another, or a feature is not finite.
    """
    if np.ndim(features) != 3 or not np.size(features):
        raise ValueError(
            f"features must be [K, T, D] of layers, texts and features, got shape "
            f"{np.shape(features)}. Write features[None] for one layer."
        )
    means, axes, variances = [], [], []
    for layer in features:
        values = np.asarray(layer, np.float32)
        if not np.isfinite(values).all():
            raise ValueError("a feature is not finite. Leave its text out.")
        mean = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = values - mean
        std = centred.std(axis=0)
        centred *= np.divide(1, std, out=np.zeros_like(std), where=std > 0)
        # LAPACK on the host: within programs that are mapped it can hang for ever.
        found = np.linalg.eigh(centred.T @ centred / len(centred))
        means.append(mean)
        axes.append(found[1].astype(np.float32))
        variances.append(np.maximum(found[0], 0).astype(np.float32))
    stacked = (jnp.asarray(np.stack(rows)) for rows in (means, axes, variances))
    return PreparedFeatures(jnp.asarray(features, jnp.float32), *stacked)


def fit_heads(
    features: PreparedFeatures,
    labels: JudgedTexts | RatedTexts,
    hyperparams: HeadHyperparams,
    weights: np.ndarray | None = None,
    *,
    block_size: int = 8,
    tolerance: float = 1e-4,
    max_iterations: int = 500,
) -> Head:
    """Returns H heads, of all the hyperparameters, in one compiled program.

    Features are standardized over the texts that a head is fitted on, each as often as it
    is compared. Other values of anything but shapes compile nothing.

    Args:
        features: of all texts.
        labels: comparisons of the texts, or a rating of each.
        hyperparams: leaves `[H]`; of scalars one head is fitted, without the axis.
        weights: `[S, P]`, how often each comparison, or rating, counts in each of S
            splits: 0 leaves it out, as for validation; counts make a bootstrap. By
            default each counts once, in one split.
        block_size: heads of a layer that are fitted together, in step: as many as stay
            in a processor's cache; an accelerator likes more.
        tolerance: of the gradient, relative to that at kernel 0.
        max_iterations: after which a head is given up; its `residual` tells.

    Raises:
        ValueError: a number is out of its range, or a split is empty.

    """
    check_at_least(1, block_size=block_size, max_iterations=max_iterations)
    if weights is None:
        weights = np.ones((1, _count(labels)), np.float32)
    weights = np.asarray(weights, np.float32)
    one = np.ndim(hyperparams.l2) == 0
    values = (hyperparams.l2, hyperparams.layer, hyperparams.split)
    l2, layer, split = np.broadcast_arrays(*map(np.atleast_1d, values))
    _check(features, labels, weights, l2, layer, split)
    # Blocks of heads of one layer; the last of a layer is filled with copies.
    order = np.argsort(l2, kind="stable")  # heads of like l2 take as many iterations
    groups = [order[layer[order] == k] for k in np.unique(layer)]
    largest = max(map(len, groups))
    size = math.ceil(largest / math.ceil(largest / block_size))
    blocks = np.stack(
        [
            np.resize(part, size)
            for group in groups
            for part in np.split(group, range(size, len(group), size))
        ]
    )
    if isinstance(labels, RatedTexts):  # 0 times NaN would be NaN
        labels = RatedTexts(jnp.nan_to_num(jnp.asarray(labels.ratings, jnp.float32)))
    found = _fit_blocks(
        features,
        labels,
        jnp.asarray(weights),
        jnp.asarray(layer[blocks[:, 0]], jnp.int32),
        jnp.asarray(l2[blocks], jnp.float32),
        jnp.asarray(split[blocks], jnp.int32),
        jnp.float32(tolerance),
        jnp.int32(max_iterations),
    )
    first = np.unique(blocks.ravel(), return_index=True)[1]
    heads = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[first], found)
    return jax.tree.map(lambda x: x[0], heads) if one else heads


def head_scores(head: Head, features: jax.Array) -> jax.Array:
    """Returns scores `[T]` of features `[T, D]`; `[H, T]` of heads with a leading axis."""
    scores = jnp.matmul(head.kernel, jnp.asarray(features).T, precision=_HIGHEST)
    return scores + head.bias[..., None]


def with_heads(
    module: Transformer | RewardModel,
    variables: Any,
    head: Head,
    num_layers: int,
    *,
    centred: bool = True,
) -> tuple[RewardModel, Any]:
    """Returns the reward model of the first blocks and a head on their features.

    It scores texts as `head_scores` does their features, with pooling "last". Of M heads
    it is an ensemble over one trunk: only the leaves of heads and scales are stacked.

    Args:
        module: whose features the head was fitted on.
        variables: the module's.
        head: one, or some with a leading axis, all on the same layer.
        num_layers: the blocks that are kept, as in `layers` of `frozen_features`.
        centred: with the head's bias, so that scores are 0 on average over the texts in
            training, and an ensemble's members can be compared. transformers has no such
            thing: without it `save_reward_model` can write the model, which prefers
            the same texts.
    """
    config, trunk = first_layers(module, variables, num_layers)
    pad_id = module.pad_id if isinstance(module, RewardModel) else None
    params = {"trunk": trunk, "head": {"kernel": head.kernel[..., None]}}
    mean = -head.bias if centred else jnp.zeros_like(head.bias)
    scale = {"mean": mean, "std": jnp.ones_like(mean)}
    return RewardModel(config, pad_id=pad_id), {"params": params, "scale": scale}


@jax.jit
def _fit_blocks(
    features, labels, weights, layers, l2, splits, tolerance, max_iterations
) -> Head:
    """Returns heads `[N, B]` of N blocks, one after another: few features at a time."""

    def fit_block(block):
        number, l2, splits = block
        mean = features.means[number]
        layer = _Layer(
            features.values[number] - mean[None],
            features.axes[number],
            features.variances[number],
        )
        fit = functools.partial(_fit, layer, labels, tolerance, max_iterations)
        heads = jax.vmap(fit)(weights[splits], l2)
        shift = jnp.matmul(heads.kernel, mean, precision=_HIGHEST)
        return heads.replace(bias=heads.bias - shift)

    return jax.lax.map(fit_block, (layers, l2, splits))


def _fit(
    layer: _Layer,
    labels: JudgedTexts | RatedTexts,
    tolerance: jax.Array,
    max_iterations: jax.Array,
    weights: jax.Array,
    l2: jax.Array,
) -> Head:
    """Returns one head on features without their mean; `weights` are `[C]`."""
    weights = weights / weights.sum()
    uses, (loss, derivatives), targets, pace = _problem(layer, labels, weights)
    dot = functools.partial(jnp.matmul, precision=_HIGHEST)
    mean, squares = dot(uses, layer.values), dot(uses, layer.values**2)
    variance = squares - mean**2
    # A feature that is the same in all of these texts tells nothing about others.
    varies = variance > 1e-6 * squares
    scale = jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variance, 1.0)), 0.0)

    def linear(u):
        kernel = scale * u
        scores = dot(layer.values, kernel) - mean @ kernel
        if isinstance(labels, RatedTexts):
            return scores
        return scores[labels.pairs[:, 0]] - scores[labels.pairs[:, 1]]

    def over_curvature(gradient):
        along = dot(gradient, layer.axes) / (pace * layer.variances + 2 * l2)
        return dot(layer.axes, along)

    found = minimize(
        linear, derivatives, targets, weights, l2, over_curvature, len(mean),
        tolerance=tolerance, max_iterations=max_iterations,
    )  # fmt: skip
    kernel = scale * found.u
    rating = weights @ labels.ratings if isinstance(labels, RatedTexts) else 0.0
    return Head(
        kernel=kernel,
        bias=rating - mean @ kernel,
        loss=weights @ loss(found.z, targets),
        residual=found.residual,
        num_iterations=found.num_iterations,
    )


def _problem(layer: _Layer, labels: JudgedTexts | RatedTexts, weights: jax.Array):
    """Returns each text's share, a loss and its derivatives, its labels, and a pace.

    The pace is the loss's curvature at 0, per unit of the features' covariance.
    """
    if isinstance(labels, RatedTexts):

        def by_score(score, rating):
            return 2 * (score - rating), jnp.full_like(score, 2.0)

        ratings = labels.ratings - weights @ labels.ratings
        return weights, (regression_loss, by_score), ratings, 2.0

    def loss(difference, prob):
        scores = jnp.stack([difference, jnp.zeros_like(difference)], axis=-1)
        return bradley_terry_loss(scores, probs=prob)

    def by_difference(difference, prob):
        chance = jax.nn.sigmoid(difference)
        return chance - prob, chance * (1 - chance)

    uses = jnp.zeros(len(layer.values)).at[labels.pairs].add(weights[:, None] / 2)
    # A quarter, and two texts vary.
    return uses, (loss, by_difference), labels.probs, 0.5


def _count(labels: JudgedTexts | RatedTexts) -> int:
    return len(labels.pairs if isinstance(labels, JudgedTexts) else labels.ratings)


def _check(features, labels, weights, l2, layer, split) -> None:
    num_layers, num_texts, _ = features.values.shape
    check_ranges(HeadHyperparams(l2=l2), {}, positive=("l2",))
    counts = {"layer": (layer, num_layers), "split": (split, len(weights))}
    for name, (value, count) in counts.items():
        if ((value < 0) | (value >= count) | (value != np.rint(value))).any():
            raise ValueError(
                f"{name} must be a whole number in [0, {count - 1}], got {value.tolist()}."
            )
    if isinstance(labels, JudgedTexts):
        pairs, probs = np.asarray(labels.pairs), np.asarray(labels.probs)
        if pairs.size and (pairs.min() < 0 or pairs.max() >= num_texts):
            raise ValueError(
                f"pairs must name texts in [0, {num_texts - 1}], got {pairs.min()} to "
                f"{pairs.max()}. Give the features of all texts."
            )
        if not ((probs >= 0) & (probs <= 1)).all():
            raise ValueError("probs must lie in [0, 1]. Leave out pairs without one.")
    else:
        ratings = np.asarray(labels.ratings)
        if ratings.shape != (num_texts,):
            raise ValueError(
                f"ratings must be one for each of {num_texts} texts, got shape "
                f"{ratings.shape}."
            )
        if not np.isfinite(ratings[(weights > 0).any(axis=0)]).all():
            raise ValueError("ratings must be finite. Give those texts weight 0.")
    num_labels = _count(labels)
    if weights.ndim != 2 or weights.shape[1] != num_labels:
        raise ValueError(
            f"weights must be [S, {num_labels}], one for each label in each split, got "
            f"shape {weights.shape}."
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be at least 0 and finite. Use 0 to leave out.")
    if not weights.any(axis=1).all():
        empty = np.flatnonzero(~weights.any(axis=1))[0]
        raise ValueError(
            f"split {empty} has nothing to learn from. Give it a weight above 0."
        )
