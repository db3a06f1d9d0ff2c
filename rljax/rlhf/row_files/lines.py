"""Lines of JSON that are read window by window, and the lines that come out.

Any fields of a line are kept, byte for byte.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import BOM
from rljax.training.files import RunError, dumps

_CHUNK = 1 << 20  # bytes


class RowFileError(RunError):
    """The file cannot be done, or not further, for the reason in the message."""


class RowError(ValueError):
    """A line that nothing can be done with, for the reason in the message."""


class Row(Protocol):
    """A line of the input, and the examples in it; with an `error` there are none."""

    @property
    def pairs(self) -> list[Example]: ...  # noqa: D102
    @property
    def error(self) -> str | None: ...  # noqa: D102


class Window(NamedTuple):
    """Lines that were read together, by number, and the input from start to end of them.

    Blank lines are not among the rows.
    """

    rows: list[tuple[int, Any]]
    input_start: int
    input_bytes: int
    input_sha256: str


class Reader:
    """Reads the input from some line on; `hash` is that of the `offset` bytes so far."""

    def __init__(self, name: Path, read: Callable[[bytes], Row], error_rows: bool):
        self.offset = self._newlines = 0
        self.hash = hashlib.sha256()
        self._name, self._read, self._error_rows = name, read, error_rows

    def skip(self, source: BinaryIO, size: int) -> None:
        """Reads up to `size` bytes, of lines that are already done."""
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
                row = self._read(line)
                if row.error is not None and not self._error_rows:
                    raise bad_line(self._name, number, row.error)
                rows.append((number, row))
                pairs += row.pairs
            full = max(len(rows), len(pairs)) >= size
            if full or (not line and self.offset > end):
                yield Window(rows, end, self.offset, self.hash.hexdigest()), pairs
                rows, pairs, end = [], [], self.offset

    def _count(self, data: bytes) -> None:
        self.offset += len(data)
        self._newlines += data.count(b"\n")
        self.hash.update(data)


def bad_line(name: Path, number: int, reason: str) -> RowFileError:
    """Returns the error of a row that nothing can be done with."""
    return RowFileError(
        f"line {number} of {name}: {reason.rstrip('.')}. Mend it, or give --error-rows "
        f"to go on past such lines."
    )


def extended_line(line: bytes, added: dict[str, Any]) -> bytes:
    """Returns the output line of a row: the input line, with fields added to it."""
    # A carriage return can only be space here, but some readers end a line at it.
    kept = line.strip().replace(b"\r", b" ")[:-1].rstrip()
    return kept + b", " + dumps(added, ensure_ascii=False)[1:].encode() + b"\n"


def error_line(
    fields: dict[str, Any], error: str, name: str, without: Collection[str]
) -> bytes:
    """Returns the output line of a row with an error: its fields, if any, and that.

    `name` is the error's, and fields called as one of `without` are left out.
    """
    kept = {k: v for k, v in fields.items() if k != name and k not in without}
    try:
        text = json.dumps(kept | {name: error}, ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"
    except (RecursionError, ValueError):  # what cannot be written is what is wrong
        return json.dumps({name: error}).encode() + b"\n"
