"""Reward heads on the features of a frozen model: fitted to the end, many at once.

`frozen_features` runs the model once over the texts; `fit_heads` then fits any number of
heads in one program, and `with_heads` makes a reward model of one. May import
`rljax.rlhf.training` and what lies below it.
"""

from rljax.rlhf.frozen.features import different_texts, frozen_features
from rljax.rlhf.frozen.heads import (
    Head,
    HeadHyperparams,
    JudgedTexts,
    RatedTexts,
    fit_heads,
    head_scores,
    prepare,
    with_heads,
)

__all__ = [
    "Head", "HeadHyperparams", "JudgedTexts", "RatedTexts", "different_texts", "fit_heads",
    "frozen_features", "head_scores", "prepare", "with_heads",
]  # fmt: skip
