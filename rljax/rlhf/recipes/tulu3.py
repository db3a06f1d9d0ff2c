"""Tülu 3: fine-tuning, preferences among the model's own completions, verifiable rewards.

Lambert et al. (2024), https://arxiv.org/abs/2411.15124: SFT on demonstrations (section 4),
DPO (section 5), RLVR (section 6). Here all pairs are on-policy, and one judge scores
them; the paper mixes completions of many models, judged by GPT-4o, with prompts that were
not in SFT. Its DPO loss is divided by lengths, its RLVR is PPO with a value model that
starts as a reward model: `Training.config` has what is chosen here.
"""

import dataclasses
from typing import NamedTuple

import jax

from rljax.base import Params
from rljax.rlhf.data.rows import Completions, Rankings
from rljax.rlhf.direct import with_reference
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.recipes.prompts import RewardedPrompts, judged_pairs, sample_each
from rljax.rlhf.recipes.stages import Arrays, Measures, Stages
from rljax.rlhf.recipes.trainings import Evaluate, Training, align, fine_tune, optimize


class Tulu3Data(NamedTuple):
    """What the stages learn from.

    Attributes:
        demonstrations: of SFT.
        judged: prompts of DPO, with the judge of their completions.
        verifiable: prompts of RLVR, with the reward that verifies their completions.
    """

    demonstrations: Completions
    judged: RewardedPrompts
    verifiable: RewardedPrompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tulu3Settings:
    """The sizes of the stages.

    Attributes:
        sft: of an `SFTConfig`.
        dpo: of a `DirectConfig` whose loss needs a reference.
        rlvr: of a `PolicyConfig`.
        num_samples: completions of each judged prompt, of which the best and the worst
            are a pair.
    """

    sft: Training
    dpo: Training
    rlvr: Training
    num_samples: int = 4


def tulu3(
    module: Transformer,
    params: Params,
    data: Tulu3Data,
    settings: Tulu3Settings,
    stages: Stages,
    evaluate: Evaluate,
    key: jax.Array,
) -> Params:
    """Returns a language model after SFT, DPO and RLVR.

    Args:
        module: the language model.
        params: of the pretrained model.
        data: demonstrations, and prompts with their rewards.
        settings: sizes.
        stages: keeps what each stage makes.
        evaluate: measures a model on held-out prompts.
        key: consumed.
    """
    sft_key, sample_key, dpo_key, rlvr_key = jax.random.split(key, 4)
    stages.measure("pretrained", lambda: evaluate(params, params))

    tuned = fine_tune(
        stages, "sft", module, params, data.demonstrations, settings.sft, sft_key,
        evaluate, stages.measured["pretrained"],
    )  # fmt: skip

    def pairs() -> tuple[Arrays, Measures]:
        rlvr = settings.rlvr.config
        samples = sample_each(
            module, tuned, data.judged, sample_key, settings.num_samples,
            max_new_tokens=rlvr.max_new_tokens, stop_ids=rlvr.stop_ids,
        )  # fmt: skip
        scores = data.judged.scores(samples)
        found = judged_pairs(samples, scores, settings.num_samples)
        return vars(with_reference(module, tuned, found)), {"judged": scores.mean()}

    aligned = align(
        stages, "dpo", module, tuned, Rankings(**stages.compute("pairs", pairs)),
        settings.dpo, dpo_key, evaluate, stages.measured["sft"],
    )  # fmt: skip

    return optimize(
        stages, "rlvr", module, aligned, data.verifiable, settings.rlvr, rlvr_key,
        evaluate, stages.measured["dpo"],
    )  # fmt: skip
