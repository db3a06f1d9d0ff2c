"""What scoring returns: the score of each pair, and the work done."""

import dataclasses
from typing import NamedTuple, Self

import numpy as np


class Scored(NamedTuple):
    """The score of one pair; NaN where there is an `error`, a text.

    `num_tokens` were scored, of prompt and completion together, up to the one at which
    the score is read, after `num_cut` were cut to fit the context; the row was padded to
    `bucket`. Of an ensemble, whose mean the score is, `members` has each one's.
    """

    score: float
    num_tokens: int = 0
    num_cut: int = 0
    bucket: int = 0
    error: str | None = None
    members: tuple[float, ...] = ()


@dataclasses.dataclass
class Counts:
    """Work done on some pairs; counts of several add up with `+`.

    Attributes:
        padded_tokens: tokens computed, padding included.
        compile_count: programs compiled, at most one a padded length.
        seconds_run: all the time but that spent compiling; 0 for a batch.
    """

    pairs: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    compile_count: int = 0
    seconds_compile: float = 0.0
    seconds_run: float = 0.0

    def __add__(self, other: "Counts") -> Self:
        names = [field.name for field in dataclasses.fields(other)]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return dataclasses.replace(self, **sums)

    @property
    def padding_share(self) -> float:
        """The share of the computed tokens that was no text."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


class Detail(NamedTuple):
    """Scores of N pairs, and the work done on them.

    `scores` is `[N]` float32; `num_tokens`, `num_cut` and `bucket` are `[N]` int32 as in
    `Scored`. The numbers after them are those of `Counts`, for the whole call. `members`
    is `[N, M]` float32, the scores of M members of an ensemble; None of a single model.
    """

    scores: np.ndarray
    num_tokens: np.ndarray
    num_cut: np.ndarray
    bucket: np.ndarray
    padding_share: float
    compile_count: int
    seconds_compile: float
    members: np.ndarray | None = None
