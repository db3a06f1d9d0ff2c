"""How much of a file has been scored, and the summary of a finished one."""

import dataclasses
import hashlib
import math
from typing import Any

from rljax.rlhf.scoring.scored import Counts
from rljax.training.manifest import device


@dataclasses.dataclass
class ScoringProgress(Counts):
    """How much of a file has been scored, by all the processes that worked on it.

    Attributes:
        rows: rows written, those of errors included.
        errors: how many of them have an error in place of a score.
        truncated: rows whose prompt was cut.
        input_bytes: bytes read for the rows, whose hash is `input_sha256`.
        output_bytes: bytes of the rows.
        scores: scores written; `mean`, `min` and `max` are theirs.
        sum_squares: of the scores' distances from the mean.
    """

    rows: int = 0
    errors: int = 0
    truncated: int = 0
    input_bytes: int = 0
    input_sha256: str = hashlib.sha256().hexdigest()
    output_bytes: int = 0
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

    def result(self) -> dict[str, Any]:
        """Returns the summary of a finished file."""
        seconds = max(self.seconds_run, 1e-9)
        std = math.sqrt(self.sum_squares / self.scores) if self.scores else None
        return {
            "device": device(),
            "rows": self.rows,
            "errors": self.errors,
            "truncated": self.truncated,
            "pairs": self.pairs,
            "tokens": self.tokens,
            "tokens_per_second": self.tokens / seconds,
            "pairs_per_second": self.pairs / seconds,
            "padding_share": self.padding_share,
            "compile_count": self.compile_count,
            "seconds_compile": self.seconds_compile,
            "seconds_run": self.seconds_run,
            "score_mean": self.mean if self.scores else None,
            "score_std": std,
            "score_min": self.min,
            "score_max": self.max,
        }
