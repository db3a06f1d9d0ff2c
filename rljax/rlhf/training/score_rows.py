"""Scores of a training set under the model that training has made so far."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.numerics.processes import to_host
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.trainable import Trainable, adapt, join, split
from rljax.rlhf.training.microbatches import usual_lengths
from rljax.rlhf.training.reward import RewardConfig, RewardTask, scores_of
from rljax.rlhf.training.update import TrainingState


def score_rows(
    module: RewardModel,
    config: RewardConfig,
    state: TrainingState,
    task: RewardTask,
    rows: Any,
) -> np.ndarray:
    """Returns `[N, K]` float32 scores of rankings, or `[N]` of rated texts.

    Args:
        module: as for `reward_training`, and so are the config, the state and the task.
        config: a batch has as many rows as one of its microbatches.
        state: the parameters that are trained.
        task: the others.
        rows: what is scored, other than the task's rows as a rule.
    """
    order = np.argsort(np.asarray(rows.longest), kind="stable")
    size = min(config.batch_size // config.num_microbatches, len(order))
    lengths = usual_lengths(rows.ids.shape[-1])
    found = np.zeros(rows.lengths.shape, np.float32)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        filled = np.resize(chosen, size)  # a last part is filled up with its own rows
        part = jax.tree.map(lambda x, filled=filled: x[filled], rows)
        cut = lengths[np.searchsorted(lengths, int(part.longest.max()))]
        scores = _program(module, config.trainable)(
            state.params, task.params, part.ids[..., :cut], part.lengths
        )
        found[chosen] = to_host(scores)[: len(chosen)]
    return found


@functools.cache
def _program(module: RewardModel, trainable: Trainable) -> Any:
    adapted = adapt(module, trainable)

    def scores(learned: Any, params: Any, ids: jax.Array, lengths: jax.Array):
        _, fixed = split(params, trainable, adapted.config.fixed_layers)
        found = scores_of(adapted, join(learned, fixed), ids, lengths)
        return found.astype(jnp.float32)

    return jax.jit(scores)
