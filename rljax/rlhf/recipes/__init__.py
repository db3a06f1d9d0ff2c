"""Recipes: the trainings of `rljax.rlhf` one after another, as in the papers.

A recipe is a function over a model of any size, with the data and the rewards of whoever
calls it. `Stages` keeps what each stage has made, so that a recipe that was killed goes on
where it was, and compares each with the one before it, prompt by prompt.

May import every other package of `rljax.rlhf`.
"""

from rljax.rlhf.recipes.paired import Difference, paired_difference
from rljax.rlhf.recipes.stages import Stages

__all__ = ["Difference", "Stages", "paired_difference"]
