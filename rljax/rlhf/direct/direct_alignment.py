"""Direct alignment: a language model learns from preferences without a reward model.

Rafailov et al. (2023), https://arxiv.org/abs/2305.18290: the policy that maximizes reward
under a KL penalty has the reward beta log(pi / pi_ref) up to a constant, so that a loss of
rewards is one of the policy. The losses, by name:

    dpo         of pairs, with margins, soft labels and label smoothing; of rankings
    robust_dpo  unbiased where a known share of the labels is flipped
    hinge       SLiC's, of implicit rewards
    ipo_sum     the squared loss of IPO, of log-probabilities as the paper has them
    ipo_mean    the same of means over tokens, as its authors computed it
    simpo       of means over tokens, with a margin gamma, without a reference
    orpo        fine-tuning with a term of odds, without a reference
    kto         of single completions that are desirable or not

Where there is a reference, the rows have its log-probabilities, computed once:

    rows = with_reference(module, params, tokenize_rankings(...).rows)
    task = DirectTask(rows, params)
    algorithm = direct_alignment(module, DirectConfig(loss="ipo_mean"))
    state = algorithm.init(key, DirectHyperparams(beta=0.1), task)
    state = train(algorithm, state, task, num_updates)
    implicit_rewards(module, state.params, other_rows, beta=0.1)
"""

import dataclasses
import functools
import math
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from rljax.base import Algorithm, Mean, Metrics, Params
from rljax.numerics.validation import check_positive_integers, check_ranges
from rljax.rlhf.data.rows import LabelledCompletions, Rankings, num_learned
from rljax.rlhf.direct.direct_losses import (
    WITHOUT_MARGINS,
    WITHOUT_REFERENCE,
    DirectLoss,
    label_losses,
    ranking_losses,
)
from rljax.rlhf.direct.reference import (
    check_finite,
    check_tokens,
    completion_log_probs,
    reference_of,
)
from rljax.rlhf.models.trainable import Everything, Trainable, adapt, join, split
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.training.microbatches import check_divides, check_rows, gradients
from rljax.rlhf.training.optimizer import check_optimizer
from rljax.rlhf.training.start import language_model_start
from rljax.rlhf.training.update import (
    TrainingState,
    draw_batch,
    start_state,
    take_update,
)

LARGEST = float(jnp.finfo(jnp.float32).max)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectConfig:
    """Everything that fixes an array's shape or the program's structure. Static.

    Raises:
        ValueError: there is no such loss, a size is not positive, or the batch cannot be
            cut into microbatches.
    """

    loss: DirectLoss = "dpo"
    """What is minimized."""
    batch_size: int = 32
    """Rows, such as pairs, of an update."""
    num_microbatches: int = 1
    """Parts of a batch that are computed one after another, with less memory."""
    lengths: tuple[int, ...] = ()
    """Tokens that a microbatch may be cut to, each a program; () compiles one."""
    trainable: Trainable = dataclasses.field(default_factory=Everything)
    """What of the model is trained."""

    def __post_init__(self):
        if self.loss not in get_args(DirectLoss):
            raise ValueError(
                f"loss must be one of {', '.join(get_args(DirectLoss))}, got "
                f"{self.loss!r}."
            )
        check_positive_integers(self, "batch_size", "num_microbatches")
        check_divides(self)

    @property
    def microbatch_size(self) -> int:
        """Rows that are computed together, which devices share."""
        return self.batch_size // self.num_microbatches


class DirectHyperparams(struct.PyTreeNode):
    """Everything that may be traced: sweep any of these with `jax.vmap`."""

    learning_rate: float = 1e-5
    """AdamW's step size after the warm-up."""
    warmup_updates: float = 0.0
    """Updates over which it rises linearly."""
    decay_updates: float = math.inf
    """Updates after which, falling as half a cosine, it is 0; inf: constant."""
    weight_decay: float = 0.0
    """Of matrices, apart from the gradient."""
    max_grad_norm: float = 1.0
    """Bound on the global norm of the gradient."""
    beta: float = 0.1
    """How strongly the policy is kept near the reference; of orpo, the odds' weight."""
    label_smoothing: float = 0.0
    """Share of preferences taken to be the wrong way round."""
    gamma: float = 0.5
    """By how much the chosen reward is to be higher, of simpo."""
    desirable_weight: float = 1.0
    """Of the losses of desirable completions, of kto."""
    undesirable_weight: float = 1.0
    """Of the losses of others, of kto."""


class DirectTask(struct.PyTreeNode):
    """What is read: the rows, and the model's parameters before training.

    Once there is a state, `fixed_only` leaves out those that are trained.
    """

    rows: Rankings | LabelledCompletions
    params: Params


def check_hyperparams(hyperparams: DirectHyperparams) -> None:
    """Raises a ValueError for a value out of its range; values may be arrays."""
    check_optimizer(
        hyperparams,
        label_smoothing=(0.0, 0.5),
        gamma=(0.0, LARGEST),
        desirable_weight=(0.0, LARGEST),
        undesirable_weight=(0.0, LARGEST),
    )
    check_ranges(hyperparams, {}, positive=("beta",))


@functools.cache
def direct_alignment(
    module: Transformer, config: DirectConfig
) -> Algorithm[TrainingState]:
    """Makes the direct alignment of one language model with one set of sizes. Cached.

    Args:
        module: the model, plain; it is adapted to what is trained.
        config: the loss, sizes, and what is trained.

    Returns:
        An algorithm whose hyperparameters are `DirectHyperparams` and whose task is a
        `DirectTask`. Its metrics: `loss`; `accuracy`, how often the chosen completion has
        the higher implicit reward, ties one half; `chosen_reward` and `rejected_reward`,
        and their difference, `margin`; `chosen_log_prob` and `rejected_log_prob`, summed
        over tokens; `tokens` of a row; `grad_norm` before clipping; `learning_rate`. Of
        kto, chosen are the desirable ones, a row is right whose reward is on the right
        side of beta `kl`, and there is no margin. Rewards of simpo and orpo are beta times
        the mean log-probability of a token, those of ipo_mean of means as well.
    """
    module = adapt(module, config.trainable)
    fixed_layers = module.config.fixed_layers

    def init(
        key: jax.Array, hyperparams: DirectHyperparams, task: DirectTask
    ) -> TrainingState:
        key, model_key = jax.random.split(key)
        params = language_model_start(model_key, module, task.params)
        return start_state(key, hyperparams, params, config, fixed_layers)

    def step(state: TrainingState, task: DirectTask) -> tuple[TrainingState, Metrics]:
        """One update, on a batch of rows."""
        batch = draw_batch(state, task.rows, config)
        if config.loss == "kto":
            _, fixed = split(task.params, config.trainable, fixed_layers)
            kl = _batch_kl(module, join(state.params, fixed), batch, config)
        else:
            kl = jnp.float32(0.0)

        def loss(params, rows):
            losses, means = _losses(
                module, params, rows, state.hyperparams, config.loss, kl
            )
            return losses.sum() / config.batch_size, means

        means: Any
        state, means, metrics = take_update(
            state, task.params, batch, loss, config, fixed_layers
        )
        if config.loss == "kto":
            metrics["kl"] = Mean.of(kl)
        return state, metrics | means

    def check(state: TrainingState, task: DirectTask) -> None:
        """What `train` calls before it compiles."""
        check_hyperparams(state.hyperparams)
        check_rows(task.rows, config.batch_size, config.lengths)
        _check_task(config, module, state, task)

    return Algorithm(init, step, check)


def _batch_kl(
    module: Transformer, params: Params, batch: Any, config: DirectConfig
) -> jax.Array:
    """Returns the distance to the reference that KTO takes, of a whole batch.

    The mean log ratio of completions of other prompts, at least 0.
    """

    def of_part(_: Any, part: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        texts = part.ids[:, 1], part.starts[:, 1], part.lengths[:, 1]
        log_probs = completion_log_probs(module, params, *texts)
        ratios = log_probs - reference_of(part)[:, 1]
        return jnp.float32(0.0), {"ratio": ratios.sum().astype(jnp.float32)}

    _, sums = gradients(  # with respect to nothing: the sum over parts alone
        of_part,
        {},
        batch,
        num_microbatches=config.num_microbatches,
        lengths=config.lengths or (batch.ids.shape[-1],),
    )
    return jnp.maximum(sums["ratio"] / config.batch_size, 0.0)


def _losses(
    module: Transformer,
    params: Params,
    rows: Any,
    hyperparams: DirectHyperparams,
    loss: DirectLoss,
    kl: jax.Array,
) -> tuple[jax.Array, Any]:
    """Returns the losses `[B]` of rows, and means over them for metrics."""
    texts = rows.ids, rows.starts, rows.lengths
    if isinstance(rows, LabelledCompletions):
        first = (x[:, 0] for x in texts)
        log_probs = completion_log_probs(module, params, *first)
        losses, means = label_losses(log_probs, rows, hyperparams, kl)
    else:
        log_probs = completion_log_probs(module, params, *texts)
        losses, means = ranking_losses(loss, log_probs, rows, hyperparams)
    means |= {"loss": Mean.of(losses), "tokens": Mean.of(rows.lengths.sum(axis=-1))}
    return losses, jax.tree.map(lambda x: x.astype(jnp.float32), means)


def _check_task(
    config: DirectConfig, module: Transformer, state: Any, task: Any
) -> None:
    """Raises a ValueError for rows from which this loss cannot be learned."""
    rows, loss = task.rows, config.loss
    if isinstance(rows, LabelledCompletions) != (loss == "kto"):
        wanted = LabelledCompletions if loss == "kto" else Rankings
        raise ValueError(
            f"the rows of {loss} must be {wanted.__name__}, got {type(rows).__name__}. "
            f"Use tokenize_{'labelled' if loss == 'kto' else 'rankings'}."
        )
    check_tokens(module, rows)
    if loss not in WITHOUT_REFERENCE:
        check_finite(reference_of(rows))
    lengths = np.asarray(rows.lengths)
    # Of a ranking of fewer than K the last are missing.
    present = lengths > 0
    needed = lengths.shape[1] if loss == "kto" else 2
    absent = ~present[:, :needed].all(axis=1) | (present[:, 1:] > present[:, :-1]).any(
        1
    )
    if absent.any():
        row = int(absent.argmax())
        raise ValueError(
            f"every row must have its completions, the first two at least, but of row "
            f"{row} the lengths are {lengths[row].tolist()}. Leave it out."
        )
    empty = (np.asarray(num_learned(rows.starts, rows.lengths)) < 1) & (lengths > 0)
    if empty.any():
        raise ValueError(
            f"every completion must have a token to learn, but one of row "
            f"{np.argwhere(empty)[0, 0]} has none. Leave it out."
        )
    if isinstance(rows, LabelledCompletions):
        if rows.labels.dtype != bool:
            raise ValueError(
                f"labels must be bool, true for desirable completions, got "
                f"{rows.labels.dtype}. Compare them: labels > 0, say."
            )
        if len(np.unique(np.asarray(rows.labels))) < 2:
            raise ValueError(
                f"all {len(lengths):,} labels are {bool(rows.labels[0])}, from which a "
                f"model learns no difference. Give completions of both labels."
            )
        return
    check_ranges(rows, {"margins": (-LARGEST, LARGEST), "probs": (0.0, 1.0)})
    if rows.ids.shape[1] > 2 and loss != "dpo":
        raise ValueError(
            f"{loss} learns from pairs, got rankings of {rows.ids.shape[1]}. Give pairs, "
            f"or choose dpo."
        )
    if loss in WITHOUT_MARGINS and np.any(np.asarray(rows.margins)):
        raise ValueError(
            f"{loss} has no place for margins, got some other than 0. Leave them out."
        )
    if loss == "robust_dpo" and np.any(
        np.asarray(state.hyperparams.label_smoothing) >= 0.5
    ):
        raise ValueError(
            "label_smoothing must be below 0.5 for robust_dpo: of labels that are right "
            "half of the time nothing is learned. Lower it."
        )
    real = np.arange(rows.ids.shape[-1]) < lengths[..., None]
    first, second = (np.where(real, np.asarray(rows.ids), -1)[:, i] for i in (0, 1))
    if (first == second).all():
        raise ValueError(
            f"the two completions of all {len(lengths):,} rows are the same, from which "
            f"nothing is learned. Give completions that differ."
        )


Config, Hyperparams, make = DirectConfig, DirectHyperparams, direct_alignment
