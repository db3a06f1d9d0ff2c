"""Completions of the policy before it is optimized: pairs to judge, and a pool to choose from."""

from typing import NamedTuple

import jax
import numpy as np
from overoptimization_learning import keys
from overoptimization_settings import Experiment
from overoptimization_world import Drawn, World, draw, gold_reward

from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.policy.samples import Samples


class Pairs(NamedTuple):
    """Two completions of each of N prompts, with their gold rewards `[N, 2]`.

    Attributes:
        samples: 2 N completions, the two of a prompt one after another.
        gold: `[N, 2]`.
        temperature: of the judge: how far rewards must differ to decide a preference.
    """

    samples: Samples
    gold: np.ndarray
    temperature: float

    @property
    def probs(self) -> np.ndarray:
        """`[N]`: the probability that the first is preferred, by Bradley and Terry."""
        above = (self.gold[:, 0] - self.gold[:, 1]) / self.temperature
        return 1 / (1 + np.exp(-above))

    def judged(self, key: jax.Array, count: int) -> Rankings:
        """Returns some of the pairs, the preferred completion first, as a judge draws it."""
        pair_key, key = jax.random.split(key)
        size = len(self.gold)
        some = np.asarray(jax.random.permutation(pair_key, size)[:count])
        first = np.asarray(jax.random.uniform(key, (count,))) < self.probs[some]
        rows = 2 * some[:, None] + np.stack([~first, first], axis=1)
        return Rankings.of(self.samples.ids[rows], self.samples.lengths[rows])

    def accuracy(self, scores: np.ndarray) -> float:
        """Returns how often a judge agrees with the order of scores `[2 N]`, on average."""
        above = np.sign(scores[::2] - scores[1::2])
        return float(np.mean(0.5 + above * (self.probs - 0.5)))


class Pool(NamedTuple):
    """N completions of each of P prompts, by the policy before it is optimized.

    Attributes:
        drawn: P N of them, those of a prompt one after another.
        texts: likewise.
        gold: `[P N]`, their gold rewards.
    """

    drawn: Drawn
    texts: list[str]
    gold: np.ndarray


def draw_pairs(experiment: Experiment, world: World) -> tuple[Pairs, Pairs]:
    """Returns pairs to learn from, and pairs to test on."""
    counts = experiment.num_preferences[-1], experiment.num_tested
    prompt_key, key = keys(experiment, "pairs", 2)
    index = jax.random.choice(prompt_key, len(world.corpus.prompts), (sum(counts),))
    prompts = np.repeat(world.corpus.prompts[np.asarray(index)], 2, axis=0)
    samples = draw(world, world.reference, prompts, key).samples
    gold = gold_reward(world.corpus.texts(samples.completions)).reshape(-1, 2)
    size, temperature = counts[0], experiment.temperature
    return (
        Pairs(jax.tree.map(lambda x: x[: 2 * size], samples), gold[:size], temperature),
        Pairs(jax.tree.map(lambda x: x[2 * size :], samples), gold[size:], temperature),
    )


def draw_pool(experiment: Experiment, world: World) -> Pool:
    """Returns what the best is chosen from, which shows how policies begin, too."""
    (key,) = keys(experiment, "pool", 1)
    prompts = np.repeat(world.corpus.held_out, experiment.best_of, axis=0)
    drawn = draw(world, world.reference, prompts, key)
    texts = world.corpus.texts(drawn.samples.completions)
    return Pool(drawn, texts, gold_reward(texts))
