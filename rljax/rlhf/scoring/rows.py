"""Lines of JSON to score: what is in them, and the lines that come out.

A line is a row of a data set, in one of the forms of `rljax.rlhf.data.forms`. Any other
fields of a line are kept, byte for byte.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from rljax.rlhf.data.forms import Columns, FormError, read_form
from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import BOM, LineError, read_object
from rljax.rlhf.scoring.scored import Scored
from rljax.training.files import RunError, dumps

_CHUNK = 1 << 20  # bytes


class ScoreFileError(RunError):
    """The file cannot be scored, or not further, for the reason in the message."""


class RowError(ValueError):
    """A line that cannot be scored, for the reason in the message."""


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


class Window(NamedTuple):
    """Lines that were read together, by number, and the input up to their end.

    Blank lines are not among the rows.
    """

    rows: list[tuple[int, Row]]
    input_bytes: int
    input_sha256: str


class Reader:
    """Reads the input from some line on; `hash` is that of the `offset` bytes so far."""

    def __init__(
        self, name: Path, field: str, error_rows: bool, columns: Columns | None = None
    ):
        self.offset = self._newlines = 0
        self.hash = hashlib.sha256()
        self._name, self._field, self._error_rows = name, field, error_rows
        self._columns = columns

    def skip(self, source: BinaryIO, size: int) -> None:
        """Reads up to `size` bytes, of lines that are already scored."""
        while self.offset < size:
            if not (chunk := source.read(min(_CHUNK, size - self.offset))):
                break
            self._count(chunk)

    def windows(
        self, source: BinaryIO, size: int
    ) -> Iterator[tuple[Window, list[Example]]]:
        """Yields windows of `size` rows or pairs, and the pairs in them.

        Blank lines at the end are a window without rows.
        """
        rows: list[tuple[int, Row]] = []
        pairs: list[Example] = []
        end = self.offset
        for line in itertools.chain(source, [b""]):  # b"" is the end
            number, first = self._newlines + 1, self.offset == 0
            self._count(line)
            if first:
                line = line.removeprefix(BOM)
            if line.strip():
                row = read_row(line, self._field, self._columns)
                if row.error is not None and not self._error_rows:
                    raise bad_line(self._name, number, row.error)
                rows.append((number, row))
                pairs += row.pairs
            full = max(len(rows), len(pairs)) >= size
            if full or (not line and self.offset > end):
                yield Window(rows, self.offset, self.hash.hexdigest()), pairs
                rows, pairs, end = [], [], self.offset

    def _count(self, data: bytes) -> None:
        self.offset += len(data)
        self._newlines += data.count(b"\n")
        self.hash.update(data)


def bad_line(name: Path, number: int, reason: str) -> ScoreFileError:
    """Returns the error of a row that cannot be scored."""
    return ScoreFileError(
        f"line {number} of {name}: {reason.rstrip('.')}. Mend it, or give --error-rows "
        f"to go on past such lines."
    )


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
    # A carriage return can only be space here, but some readers end a line at it.
    kept = row.line.strip().replace(b"\r", b" ")[:-1].rstrip()
    return kept + b", " + dumps(added, ensure_ascii=False)[1:].encode() + b"\n"


def error_line(row: Row, error: str, field: str) -> bytes:
    """Returns the output line of a row without scores: its fields, if any, and the error."""
    name = f"{field}_error"
    ours = {name, f"{field}_truncated", *row.names}
    kept = {key: value for key, value in row.fields.items() if key not in ours}
    try:
        text = json.dumps(kept | {name: error}, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (RecursionError, ValueError):  # what cannot be written is what is wrong
        return json.dumps({name: error}).encode() + b"\n"
