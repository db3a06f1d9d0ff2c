"""Scores of many completions from a reward model, in memory or from file to file.

May import `rljax.rlhf.data`, `row_files`, `models` and `pretrained`. The function `score_file` is in the
module of that name.
"""

from rljax.rlhf.row_files import Counts
from rljax.rlhf.row_files.batching import Batch, plan_batches
from rljax.rlhf.scoring.scored import Detail, Scored
from rljax.rlhf.scoring.scorer import Scorer
from rljax.rlhf.scoring.tally import ScoringProgress

__all__ = [
    "Batch", "Counts", "Detail", "Scored", "Scorer",
    "ScoringProgress", "plan_batches",
]  # fmt: skip
