"""DeepSeek-R1: a cold start, RL, fine-tuning anew on what it found, and RL on all prompts.

DeepSeek-AI (2025), https://arxiv.org/abs/2501.12948, section 2.3: a cold start from a few
worked examples; GRPO with a reward that verifies; rejection sampling, and SFT of the
*pretrained* model on the completions that were right beside other data; GRPO on a mixture
of verifiable prompts and others. Here the first RL has no reward for keeping to one
language, and the mixture's other reward is whatever the caller gives, where the paper has
learned reward models. SFT on as many samples of the same prompts, drawn whether right or
not, is the control: what the choice of samples is worth.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.base import Params
from rljax.rlhf.data.rows import Completions
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.recipes.prompts import RewardedPrompts, sample_each
from rljax.rlhf.recipes.stages import Arrays, Measures, Stages
from rljax.rlhf.recipes.trainings import Evaluate, Training, fine_tune, optimize
from rljax.rlhf.selection import best_per_prompt, matched_control, take


class R1Data(NamedTuple):
    """What the stages learn from.

    Attributes:
        worked: a few worked examples, of the cold start.
        verifiable: prompts of the first RL and of rejection sampling, with the reward
            that verifies their completions.
        other: rows of other data, which are fine-tuned on beside what was kept.
        mixed: prompts of the second RL, verifiable ones and others, as `reward_by_kind`.
    """

    worked: Completions
    verifiable: RewardedPrompts
    other: Completions
    mixed: RewardedPrompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class R1Settings:
    """The sizes of the stages.

    Attributes:
        cold_start: of an `SFTConfig`.
        reasoning: of a `PolicyConfig`, the first RL.
        sft: of an `SFTConfig`, of the pretrained model.
        mixed: of a `PolicyConfig`, the second RL.
        num_samples: completions of each verifiable prompt.
        threshold: the reward of a completion that is kept; of a prompt one is.
    """

    cold_start: Training
    reasoning: Training
    sft: Training
    mixed: Training
    num_samples: int = 4
    threshold: float = 1.0


def r1(
    module: Transformer,
    params: Params,
    data: R1Data,
    settings: R1Settings,
    stages: Stages,
    evaluate: Evaluate,
    key: jax.Array,
) -> Params:
    """Returns a language model after the four stages of R1, and trains the control.

    Args:
        module: the language model.
        params: of the pretrained model.
        data: examples, other rows, and prompts with their rewards.
        settings: sizes.
        stages: keeps what each stage makes.
        evaluate: measures a model on held-out prompts.
        key: consumed.
    """
    start_key, rl_key, sample_key, sft_key, mixed_key = jax.random.split(key, 5)
    stages.measure("pretrained", lambda: evaluate(params, params))

    started = fine_tune(
        stages, "cold_start", module, params, data.worked, settings.cold_start,
        start_key, evaluate, stages.measured["pretrained"],
    )  # fmt: skip

    reasoning = optimize(
        stages, "reasoning_rl", module, started, data.verifiable, settings.reasoning,
        rl_key, evaluate, stages.measured["cold_start"],
    )  # fmt: skip

    def sampled() -> tuple[Arrays, Measures]:
        draw_key, control_key = jax.random.split(sample_key)
        config = settings.reasoning.config
        samples = sample_each(
            module, reasoning, data.verifiable, draw_key, settings.num_samples,
            max_new_tokens=config.max_new_tokens, stop_ids=config.stop_ids,
        )  # fmt: skip
        scores = data.verifiable.scores(samples)
        prompts = np.asarray(samples.prompt_index)
        best = best_per_prompt(scores, prompts)
        kept = best[scores[best] >= settings.threshold]
        if not len(kept):
            raise ValueError(
                f"no completion has a reward of at least {settings.threshold:g}, the "
                f"highest is {scores.max():g}. Lower the threshold, or train longer."
            )
        control = matched_control(control_key, kept, prompts)
        rows = {"kept": take(samples, kept), "control": take(samples, control)}
        arrays = {
            f"{k}.{n}": x for k, row in rows.items() for n, x in vars(row).items()
        }
        return arrays, {"right": scores.mean(), "right_control": scores[control].mean()}

    found = stages.compute("rejection", sampled)

    def rows_of(kind: str) -> Completions:
        names = ("ids", "lengths", "starts")
        chosen = Completions(**{name: found[f"{kind}.{name}"] for name in names})
        return joined(chosen, data.other)

    fine_tune(
        stages, "sft_control", module, params, rows_of("control"), settings.sft, sft_key,
        evaluate, stages.measured["cold_start"],
    )  # fmt: skip
    tuned = fine_tune(
        stages, "sft", module, params, rows_of("kept"), settings.sft, sft_key, evaluate,
        stages.measured["cold_start"],
    )  # fmt: skip
    stages.compare("sft_over_control", settings.sft.improves, "sft", "sft_control")

    return optimize(
        stages, "mixed_rl", module, tuned, data.mixed, settings.mixed, mixed_key,
        evaluate, stages.measured["sft"],
    )  # fmt: skip


def joined(one: Completions, other: Completions) -> Completions:
    """Returns the rows of both, padded to one width."""
    width = max(one.ids.shape[1], other.ids.shape[1])

    def wide(rows: Completions) -> Completions:
        lacking = width - rows.ids.shape[1]
        return rows.replace(ids=jnp.pad(rows.ids, ((0, 0), (0, lacking))))

    both = wide(one), wide(other)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *both)
