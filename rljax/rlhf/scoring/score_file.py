"""Scores a file into another of JSON lines, and goes on where it was killed.

How it goes on, and what lies beside the output, is described in `row_files.rewriting`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rljax.rlhf.data.forms import Columns
from rljax.rlhf.data.pairs import Example
from rljax.rlhf.row_files import Counts, RowFileError, Window, rewrite
from rljax.rlhf.scoring.rows import Row, read_row, scored_line, unscored_line
from rljax.rlhf.scoring.scored import Scored
from rljax.rlhf.scoring.scorer import Scorer
from rljax.rlhf.scoring.tally import ScoringProgress

ScoreFileError = RowFileError
"""The file cannot be scored, or not further, for the reason in the message."""


def score_file(
    scorer: Scorer,
    input: Path,
    output: Path,
    *,
    settings: dict[str, Any],
    error_rows: bool = False,
    field: str = "score",
    columns: Columns | None = None,
) -> dict[str, Any]:
    """Writes every row of a file with its score, in order; see the module.

    The input is JSON lines (gzipped or not), a JSON array or Parquet, or stdin (`-`), of
    rows as `rljax.rlhf.data.forms` describes them, with other names in `columns`. The
    output does not exist yet, or was begun by the same call: a part of other `settings`,
    JSON values by name, is refused. With `error_rows` a row that cannot be scored becomes
    one with the reason, rather than an error; a part without any may go on either way.
    The score is called `field`.

    Returns:
        The figures, as they lie in OUT.run.json.

    Raises:
        ScoreFileError: a row cannot be scored, the part or the output is of something
            else, another process writes it, or a signal or the disk stopped us.
    """
    return rewrite(
        _Scoring(scorer, field, columns),
        input,
        output,
        settings=settings | {"field": field} | _named(columns),
        fingerprint=dict(scorer.fingerprint),
        error_rows=error_rows,
    )


class _Scoring:
    """Scoring, as what is done with the rows of a file."""

    def __init__(self, scorer: Scorer, field: str, columns: Columns | None):
        self.window, self.start = scorer.window, ScoringProgress()
        self._scorer, self._field, self._columns = scorer, field, columns

    def read(self, line: bytes) -> Row:
        """Returns the pairs in a line."""
        return read_row(line, self._field, self._columns)

    def stream(
        self,
        windows: Iterator[tuple[Window, list[Example]]],
        on_batch: Callable[[Window, Counts], None],
    ) -> Iterator[tuple[Window, list[Scored], Counts]]:
        """Yields windows with the scores of their pairs."""
        return self._scorer.stream(windows, on_batch)

    def write(
        self, row: Row, results: list[Scored], place: int, done: ScoringProgress
    ) -> tuple[bytes, str | None]:
        """Returns a row with its scores, or why it has none."""
        here = results[place : place + len(row.pairs)]
        for one in here:
            if one.error is not None or not math.isfinite(one.score):
                return b"", one.error or f"its score is {one.score}"
        done.truncated += any(one.num_cut for one in here)
        for one in here:
            done.add_score(one.score)
        return scored_line(row, here, self._field), None

    def write_error(self, row: Row, reason: str) -> bytes:
        """Returns a row with the reason why it has no score."""
        return unscored_line(row, reason, self._field)


def _named(columns: Columns | None) -> dict[str, Any]:
    """Returns the columns that are not called as they are by default."""
    default = Columns()
    return {
        f"{name}_column": called
        for name, called in dataclasses.asdict(columns or default).items()
        if called != getattr(default, name)
    }
