"""The trainings that recipes consist of: each is one stage, from parameters to parameters."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from rljax.base import Algorithm, Params
from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.direct import DirectTask, direct_alignment
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.policy import PolicyTask, policy_optimization
from rljax.rlhf.recipes.prompts import RewardedPrompts
from rljax.rlhf.recipes.stages import Stages
from rljax.rlhf.training import SFTTask, fine_tuning, trained_params
from rljax.training.sharded import fetched, mesh_for, place, sharded

Evaluate = Callable[[Params, Params], Mapping[str, Any]]
"""`(params, start) -> measures` of a language model over held-out prompts, by name: each
`[M]`, or a number. `start` is the model that the stage began with, for a divergence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The sizes of one stage that trains.

    Attributes:
        config: of its algorithm, such as an `SFTConfig`.
        hyperparams: of its algorithm.
        num_updates: how many.
        improves: the measure that it is to raise.
    """

    config: Any
    hyperparams: Any
    num_updates: int
    improves: str

    def __post_init__(self):
        check_at_least(1, num_updates=self.num_updates)


def fine_tune(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    rows: Completions,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a language model fine-tuned on rows, as a stage; `before` is of `Stages`."""
    algorithm = fine_tuning(module, training.config)
    return _train(
        stages, stage, module, params, algorithm, SFTTask(rows, params), training, key,
        evaluate, before, unit="rows", headline="loss",
    )  # fmt: skip


def align(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    pairs: Rankings,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a language model aligned directly to pairs that have a reference."""
    algorithm = direct_alignment(module, training.config)
    return _train(
        stages, stage, module, params, algorithm, DirectTask(pairs, params), training,
        key, evaluate, before, unit="pairs", headline="loss",
    )  # fmt: skip


def optimize(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    prompts: RewardedPrompts,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
) -> Params:
    """Returns a policy optimized on prompts with their reward; the reference is `params`."""
    algorithm = policy_optimization(module, training.config, prompts.reward).algorithm
    task = PolicyTask(prompts.ids, prompts.lengths, params, prompts.params)
    return _train(
        stages, stage, module, params, algorithm, task, training, key, evaluate, before,
        unit="completions", headline="reward",
    )  # fmt: skip


def _train(
    stages: Stages,
    stage: str,
    module: Transformer,
    params: Params,
    algorithm: Algorithm[Any],
    task: Any,
    training: Training,
    key: jax.Array,
    evaluate: Evaluate,
    before: Mapping[str, Any],
    *,
    unit: str,
    headline: str,
) -> Params:
    """Returns a language model's parameters after a stage that begins with `params`."""
    config = training.config
    mesh = mesh_for(config.microbatch_size)
    placed = place(task, mesh)

    def params_of(state: Any) -> Params:
        return fetched(trained_params(module, config.trainable, state, placed), mesh)

    return stages.train(
        stage,
        sharded(algorithm, mesh),
        placed,
        training.hyperparams,
        key=key,
        num_updates=training.num_updates,
        rows_per_update=config.batch_size,
        unit=unit,
        headline=headline,
        params_of=params_of,
        evaluate=lambda learned: evaluate(learned, params),
        improves=training.improves,
        before=before,
    )
