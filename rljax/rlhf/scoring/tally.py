"""How much of a file has been scored, and the summary of a finished one."""

import dataclasses
import math
from typing import Any

from rljax.rlhf.row_files import Progress


@dataclasses.dataclass
class ScoringProgress(Progress):
    """How much of a file has been scored, by all the processes that worked on it.

    Attributes:
        truncated: rows whose prompt was cut.
        scores: scores written; `mean`, `min` and `max` are theirs.
        sum_squares: of the scores' distances from the mean.
    """

    truncated: int = 0
    scores: int = 0
    mean: float = 0.0
    sum_squares: float = 0.0
    min: float | None = None
    max: float | None = None

    def add_score(self, score: float) -> None:
        """Updates mean, deviation and range with a score, after Welford (1962)."""
        self.scores += 1
        distance = score - self.mean
        self.mean += distance / self.scores
        self.sum_squares += distance * (score - self.mean)
        self.min = score if self.min is None else min(self.min, score)
        self.max = score if self.max is None else max(self.max, score)

    def joined(self, other: "ScoringProgress") -> "ScoringProgress":
        """As in general, and the scores' statistics after Chan et al. (1979)."""
        both = Progress.joined(self, other)
        both.truncated += other.truncated
        both.scores += other.scores
        if other.scores:
            distance = other.mean - self.mean
            both.mean += distance * other.scores / both.scores
            between = distance**2 * self.scores * other.scores / both.scores
            both.sum_squares += other.sum_squares + between
        lowest = [x.min for x in (self, other) if x.min is not None]
        highest = [x.max for x in (self, other) if x.max is not None]
        both.min, both.max = min(lowest, default=None), max(highest, default=None)
        return both

    def result(self) -> dict[str, Any]:
        """Returns the summary of a finished file."""
        std = math.sqrt(self.sum_squares / self.scores) if self.scores else None
        return self.summary() | {
            "truncated": self.truncated,
            "pairs": self.pairs,
            "pairs_per_second": self.pairs / max(self.seconds_run, 1e-9),
            "score_mean": self.mean if self.scores else None,
            "score_std": std,
            "score_min": self.min,
            "score_max": self.max,
        }
