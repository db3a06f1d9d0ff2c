"""Recipes: the trainings of `rljax.rlhf` one after another, as in the papers.

A recipe is a function over a model of any size, with the data and the rewards of whoever
calls it. `Stages` keeps what each stage has made, so that a recipe that was killed goes on
where it was, and compares each with the one before it, prompt by prompt.

May import every other package of `rljax.rlhf`.
"""

from rljax.rlhf.recipes.instructgpt import (
    InstructGPTData,
    InstructGPTSettings,
    instructgpt,
)
from rljax.rlhf.recipes.paired import Difference, paired_difference
from rljax.rlhf.recipes.prompts import Mixture, RewardedPrompts, reward_by_kind
from rljax.rlhf.recipes.r1 import R1Data, R1Settings, r1
from rljax.rlhf.recipes.stages import Stages
from rljax.rlhf.recipes.trainings import Evaluate, Training
from rljax.rlhf.recipes.tulu3 import Tulu3Data, Tulu3Settings, tulu3

__all__ = [
    "Difference", "Evaluate", "InstructGPTData", "InstructGPTSettings", "Mixture",
    "R1Data", "R1Settings", "RewardedPrompts", "Stages", "Training", "Tulu3Data",
    "Tulu3Settings", "instructgpt", "paired_difference", "r1", "reward_by_kind", "tulu3",
]  # fmt: skip
