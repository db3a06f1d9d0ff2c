"""Scores of many completions from a reward model, in memory or from file to file.

May import `rljax.rlhf.data` and `rljax.rlhf.models`. The function `score_file` is in the
module of that name.
"""

from rljax.rlhf.scoring.batching import Batch, plan_batches
from rljax.rlhf.scoring.rows import ScoreFileError
from rljax.rlhf.scoring.scored import Counts, Detail, Scored
from rljax.rlhf.scoring.scorer import Scorer
from rljax.rlhf.scoring.tally import ScoringProgress

__all__ = [
    "Batch", "Counts", "Detail", "ScoreFileError", "Scored", "Scorer",
    "ScoringProgress", "plan_batches",
]  # fmt: skip
