"""A reward from people's ratings of review sentences: heads on a language model's trunk.

The trunk is the policy's own first blocks, which it does not train. A sentence's features
are read after a question about it, where the model is about to give its opinion.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import movie_reviews
import numpy as np
import rated_pairs

from rljax.commands.fetch import cache_folder
from rljax.rlhf.data.ratings import pairs_by_gap
from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.rlhf.frozen import (
    Head,
    HeadHyperparams,
    JudgedTexts,
    fit_heads,
    frozen_features,
    prepare,
    with_heads,
)
from rljax.rlhf.models import Transformer
from rljax.rlhf.policy.rewards import (
    Ensemble,
    Reward,
    TrunkHeads,
    ensemble_reward,
    trunk_reward,
    with_question,
)
from rljax.rlhf.policy.samples import followed_by

MIN_GAP = 1.0  # of the mean ratings of a pair
L2 = 0.1


class Judge(NamedTuple):
    """What reads sentences: a model, and the blocks that it reads with.

    Attributes:
        module: the language model.
        params: before any training.
        tokenizer: the model's.
        num_layers: blocks of the trunk.
    """

    module: Transformer
    params: Any
    tokenizer: Tokenizer
    num_layers: int

    @property
    def question(self) -> tuple[int, ...]:
        """The tokens that are put after a sentence."""
        return tuple(movie_reviews.encode(self.tokenizer, [movie_reviews.QUESTION])[0])

    def features(self, ids: Any, lengths: Any, *, keep: bool = False) -> np.ndarray:
        """Returns `[N, D]`, what the trunk makes of rows without the question."""
        rows = np.asarray(followed_by(jnp.asarray(ids), lengths, self.question))
        found = frozen_features(
            self.module,
            {"params": self.params},
            rows,
            np.asarray(lengths) + len(self.question),
            layers=(self.num_layers,),
            cache=cache_folder() / "features" if keep else None,
        )
        return found[0]

    def trunk_reward(
        self, heads: Mapping[str, jax.Array], penalty: float
    ) -> tuple[Reward, Any]:
        """Returns a reward on the trunk that a policy shares, and what it reads.

        Args:
            heads: of `learn_heads`.
            penalty: times the heads' standard deviation.
        """
        reads = TrunkHeads(norm=self.params["norm"], coef=jnp.float32(penalty), **heads)
        return trunk_reward(self.module), reads

    def own_reward(
        self, heads: Mapping[str, jax.Array], penalty: float
    ) -> tuple[Reward, Any]:
        """Returns the same reward with a trunk of its own, for a policy that shares none."""
        zeros = jnp.zeros(len(heads["biases"]))
        head = Head(heads["kernels"], heads["biases"], zeros, zeros, zeros)
        variables = {"params": self.params}
        module, params = with_heads(self.module, variables, head, self.num_layers)
        ensemble = ensemble_reward(module, "lower", rows_at_once=32)
        reads = Ensemble(params, centres=zeros, coef=jnp.float32(penalty))
        return with_question(ensemble, self.question), reads


def learn_heads(
    features: np.ndarray,
    ratings: np.ndarray,
    *,
    num_tested: int,
    num_pairs: int,
    num_heads: int,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns heads, as arrays, and the accuracy of their mean on other sentences.

    Each head learns from other sentences, drawn with replacement. Scores have mean 0 and
    variance 1 over all that they learn from.

    Args:
        features: `[T, D]` of sentences.
        ratings: `[T]`, their mean ratings.
        num_tested: sentences, the last ones, that are only tested on.
        num_pairs: pairs of the others to learn from.
        num_heads: of the ensemble.
        seed: of pairs and draws.
    """
    count = len(ratings) - num_tested
    pairs = pairs_by_gap(
        ratings[:count], min_gap=MIN_GAP, num_pairs=num_pairs, seed=seed
    ).places
    times = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), size=num_heads
    )
    weights = (times[:, pairs[:, 0]] * times[:, pairs[:, 1]]).astype(np.float32)
    grid = HeadHyperparams(
        l2=np.full(num_heads, L2),  # type: ignore[arg-type]
        layer=np.zeros(num_heads, int),  # type: ignore[arg-type]
        split=np.arange(num_heads),  # type: ignore[arg-type]
    )
    heads = fit_heads(prepare(features[None]), JudgedTexts.of(pairs), grid, weights)
    kernels, biases = np.asarray(heads.kernel), np.asarray(heads.bias)
    scores = scores_of(kernels, biases, features)
    std = scores[:count].std()
    biases = biases - scores[:count].mean()
    tested = rated_pairs.AllPairs(ratings[count:], MIN_GAP)
    figures = rated_pairs.mean_accuracy([tested], [scores[count:]])
    arrays = {"kernels": kernels / std, "biases": biases / std}
    return arrays, {
        "pair_accuracy": figures["pair_accuracy"],
        "pair_accuracy_low": figures["pair_accuracy_ci95"][0],
        "pair_accuracy_high": figures["pair_accuracy_ci95"][1],
        "largest_residual": float(np.max(heads.residual)),
    }


def scores_of(kernels: Any, biases: Any, features: np.ndarray) -> np.ndarray:
    """Returns scores `[N]`, means over heads."""
    scores = features.astype(np.float64) @ np.asarray(kernels).T + np.asarray(biases)
    return scores.mean(axis=1)
