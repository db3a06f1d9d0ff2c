"""Reward training: a model of scores learned from comparisons, rankings or ratings.

Christiano et al. (2017), https://arxiv.org/abs/1706.03741, and Stiennon et al. (2020),
https://arxiv.org/abs/2009.01325: all completions of a prompt in one forward pass, head and
loss in float32, one epoch by default. The loss follows from the data: `Rankings` of two
have the Bradley-Terry loss with margins, soft labels, label smoothing and centring, those
of more the Plackett-Luce loss; `Ratings` the squared error.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from rljax.base import Algorithm, Mean, Metrics, Params
from rljax.numerics.validation import check_positive_integers
from rljax.rlhf.data.rows import Rankings, Ratings
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.trainable import Everything, Trainable, adapt
from rljax.rlhf.training.losses import (
    preference_loss,
    regression_loss,
)
from rljax.rlhf.training.microbatches import check_divides, check_rows
from rljax.rlhf.training.optimizer import check_optimizer
from rljax.rlhf.training.start import with_drawn
from rljax.rlhf.training.update import (
    TrainingState,
    draw_batch,
    start_state,
    take_update,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    Raises:
        ValueError: a size is not positive, or the batch cannot be cut into microbatches.
    """

    batch_size: int = 32
    """Rows, such as pairs, of an update."""
    num_microbatches: int = 1
    """Parts of a batch that are computed one after another, with less memory."""
    lengths: tuple[int, ...] = ()
    """Tokens that a microbatch may be cut to, each a program; () compiles one."""
    trainable: Trainable = dataclasses.field(default_factory=Everything)
    """What of the model is trained."""
    new_head: bool = True
    """Draw the head at random rather than start from the model's."""

    def __post_init__(self):
        check_positive_integers(self, "batch_size", "num_microbatches")
        check_divides(self)

    @property
    def microbatch_size(self) -> int:
        """Rows that are computed together, which devices share."""
        return self.batch_size // self.num_microbatches


class RewardHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 3e-4
    """AdamW's step size after the warm-up."""
    warmup_updates: float = 0.0
    """Updates over which it rises linearly."""
    decay_updates: float = math.inf
    """Updates after which, falling as half a cosine, it is 0; inf: constant."""
    weight_decay: float = 0.0
    """Of matrices, apart from the gradient."""
    max_grad_norm: float = 1.0
    """Bound on the global norm of the gradient."""
    label_smoothing: float = 0.0
    """Share of comparisons taken to be the wrong way round."""
    centring: float = 0.0
    """Weight of (chosen + rejected)^2 in the loss, which keeps scores near 0."""


class RewardTask(struct.PyTreeNode):
    """What is read: the rows, and the model's parameters before training.

    Once there is a state, `fixed_only` leaves out those that are trained.
    """

    rows: Rankings | Ratings
    params: Params


def check_hyperparams(hyperparams: RewardHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    largest = float(jnp.finfo(jnp.float32).max)
    check_optimizer(hyperparams, label_smoothing=(0.0, 0.5), centring=(0.0, largest))


@functools.cache
def reward_training(
    module: RewardModel, config: RewardConfig
) -> Algorithm[TrainingState]:
    """Makes the training of one reward model with one set of sizes. Cached.

    Args:
        module: the model, plain; it is adapted to what is trained.
        config: sizes, and what is trained.

    Returns:
        An algorithm whose hyperparameters are `RewardHyperparams` and whose task is a
        `RewardTask`. Its metrics: `loss`; `accuracy` of comparisons, ties one half; `score`
        of the first completions; `tokens` of a row; `grad_norm` before clipping;
        `learning_rate`.
    """
    module = adapt(module, config.trainable)
    fixed_layers = module.config.fixed_layers

    def init(
        key: jax.Array, hyperparams: RewardHyperparams, task: RewardTask
    ) -> TrainingState:
        key, model_key = jax.random.split(key)
        drawn = module.init(
            model_key, jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
        )
        params = with_drawn(task.params, drawn["params"], new_head=config.new_head)
        return start_state(key, hyperparams, params, config, fixed_layers)

    def step(state: TrainingState, task: RewardTask) -> tuple[TrainingState, Metrics]:
        """One update, on a batch of rows."""
        batch = draw_batch(state, task.rows, config)

        def loss(params, rows):
            losses, sums = _losses(module, params, rows, state.hyperparams)
            return losses.sum() / config.batch_size, sums

        state, sums, metrics = take_update(
            state, task.params, batch, loss, config, fixed_layers
        )
        count = jnp.float32(config.batch_size)
        return state, metrics | {name: Mean(x, count) for name, x in sums.items()}

    def check(state: TrainingState, task: RewardTask) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_rows(task.rows, config.batch_size, config.lengths)

    return Algorithm(init, step, check)


def scores_of(
    module: RewardModel, params: Params, ids: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Returns scores `[...]` of rows `[..., L]`, in one forward pass; raw ones.

    A row of length 0 has some score or other.
    """
    variables = {"params": params, "scale": {"mean": 0.0, "std": 1.0}}
    rows = ids.reshape(-1, ids.shape[-1])
    sizes = jnp.maximum(lengths.reshape(-1), 1)
    apply: Any = module.apply
    return apply(variables, rows, sizes).reshape(lengths.shape)


def _losses(
    module: RewardModel, params: Params, rows: Any, hyperparams: RewardHyperparams
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the losses `[B]` of rows, and sums over them for metrics."""
    scores = scores_of(module, params, rows.ids, rows.lengths)
    sums = {"tokens": rows.lengths.sum().astype(jnp.float32)}
    if isinstance(rows, Ratings):
        losses, first = regression_loss(scores, rows.ratings), scores
    else:
        first = scores[:, 0]
        difference = scores[:, 0] - scores[:, 1]
        sums["accuracy"] = (0.5 * (1 + jnp.sign(difference))).sum()
        losses = preference_loss(
            scores,
            rows.lengths > 0,
            rows.margins,
            rows.probs,
            label_smoothing=hyperparams.label_smoothing,
            centring=hyperparams.centring,
        )
    sums |= {"loss": losses.sum(), "score": first.sum()}
    return losses, jax.tree.map(lambda x: x.astype(jnp.float32), sums)


Config, Hyperparams, make = RewardConfig, RewardHyperparams, reward_training
