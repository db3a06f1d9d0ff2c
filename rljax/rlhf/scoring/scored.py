"""What scoring returns: the score of each pair."""

from typing import NamedTuple

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
