"""Lines of JSON to score: what is in them, and the lines that come out.

A line is a row of a data set, in one of the forms of `rljax.rlhf.data.forms`. Any other
fields of a line are kept, byte for byte.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.rlhf.data.forms import Columns, FormError, read_form
from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import LineError, read_object
from rljax.rlhf.row_files import RowError, error_line, extended_line
from rljax.rlhf.scoring.scored import Scored


class Row(NamedTuple):
    """A line of the input: the object in it, and the name of each pair's score.

    Where they have one name, the scores are a list if the row `has_list`. Where there is
    an `error` there are no pairs.
    """

    line: bytes
    fields: dict[str, Any]
    names: list[str]
    pairs: list[Example]
    has_list: bool = False
    error: str | None = None


def read_row(line: bytes, field: str, columns: Columns | None = None) -> Row:
    """Returns what a line that is not blank holds, or why it cannot be scored.

    `field` is the score's name, or the beginning of it where there are two.
    """
    fields: dict[str, Any] = {}
    try:
        fields = read_object(line)
        found = read_form(fields, columns)
        names, pairs = [], []
        for column, examples in found.items():
            ranked = column in ("chosen", "rejected")
            names += [f"{field}_{column}" if ranked else field] * len(examples)
            pairs += examples
        for name in (*names, f"{field}_truncated", f"{field}_error"):
            if name in fields:
                raise RowError(
                    f"it has a field {name!r} of its own, which is not overwritten; "
                    f"choose another name with --field"
                )
        return Row(line, fields, names, pairs, "completions" in found)
    except (LineError, RowError, FormError) as error:
        called = columns or Columns()
        ranked = called.chosen in fields or called.rejected in fields
        names = [f"{field}_chosen", f"{field}_rejected"] if ranked else [field]
        return Row(line, fields, names, [], error=str(error))


def scored_line(row: Row, scored: Sequence[Scored], field: str) -> bytes:
    """Returns the output line of a scored row: the input line and the scores."""
    scores = np.array([one.score for one in scored], np.float32)
    added: dict[str, Any] = dict(zip(row.names, scores, strict=True))
    if row.has_list:
        added = {row.names[0]: scores}
    if num_cut := sum(one.num_cut for one in scored):
        added[f"{field}_truncated"] = num_cut
    return extended_line(row.line, added)


def unscored_line(row: Row, error: str, field: str) -> bytes:
    """Returns the output line of a row without scores: its fields, if any, and the error."""
    names = (f"{field}_truncated", *row.names)
    return error_line(row.fields, error, f"{field}_error", names)
