"""The last blocks of a model learn from pairs of texts, from where a frozen head stands."""

from collections.abc import Callable, Iterator
from typing import Any

import frozen_heads
import jax
import numpy as np

from rljax.rlhf.data.rows import Rankings, Ratings
from rljax.rlhf.frozen.heads import Head, with_heads
from rljax.rlhf.models.trainable import LastLayers
from rljax.rlhf.training import (
    RewardConfig,
    RewardHyperparams,
    RewardTask,
    reward_training,
    score_rows,
    usual_lengths,
)
from rljax.training.loop import train
from rljax.training.sharded import mesh_for, place, sharded


def train_blocks(
    material: frozen_heads.Material,
    head: Head,
    pairs: np.ndarray,
    *,
    num_layers: int,
    last_layers: int,
    num_epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Trains the last blocks and the head.

    After every epoch it yields a function that scores texts of given numbers.

    Args:
        material: the model and the texts.
        head: fitted to the features after `num_layers` blocks, with which training begins.
        pairs: `[P, 2]`, numbers of the chosen and the rejected text.
        num_layers: blocks that are kept.
        last_layers: of these, how many learn.
        num_epochs: times that they learn from each pair.
        batch_size: pairs in an update.
        learning_rate: rises for a tenth of the updates, then falls to 0.
        seed: of the order of the pairs.
    """
    module, variables = with_heads(
        material.module, material.variables, head, num_layers, centred=False
    )
    rows = Rankings.of(material.ids[pairs], material.lengths[pairs])
    rows = rows.cut(longest := int(rows.longest.max()))
    config = RewardConfig(
        batch_size=batch_size,
        lengths=usual_lengths(longest, 32),
        trainable=LastLayers(min(last_layers, num_layers)),
        new_head=False,
    )
    num_updates = len(pairs) // batch_size
    hyperparams = RewardHyperparams(
        learning_rate=learning_rate,
        warmup_updates=num_updates * num_epochs // 10,
        decay_updates=num_updates * num_epochs,
    )
    mesh = mesh_for(config.microbatch_size)
    task: Any = place(RewardTask(rows, variables["params"]), mesh)
    algorithm = sharded(reward_training(module, config), mesh)
    state = jax.jit(algorithm.init)(jax.random.key(seed), hyperparams, task)
    for _ in range(num_epochs):
        state = train(algorithm, state, task, num_updates)

        def scores(places: np.ndarray, state: Any = state) -> np.ndarray:
            ids, lengths = material.ids[places], material.lengths[places]
            texts = Ratings(ids, lengths, np.zeros(len(places), np.float32))  # type: ignore[arg-type]
            return score_rows(module, config, state, task, texts)

        yield scores
