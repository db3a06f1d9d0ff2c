"""Data sets as lines of JSON: text, gzipped text, an array, Parquet, stdin."""

import base64
import codecs
import contextlib
import decimal
import gzip
import io
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from rljax.extras import require
from rljax.rlhf.data.forms import kind
from rljax.training.files import RunError, dumps, one_line

STDIN = Path("-")
BOM = codecs.BOM_UTF8
_CHUNK = 1 << 20  # bytes
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class LineError(ValueError):
    """A line that holds no JSON object, for the reason in the message."""


class Source(NamedTuple):
    """Lines of JSON, and how many bytes they will be, given the bytes read so far.

    The number is an estimate where the file's size does not say it, None if nothing does.
    """

    stream: BinaryIO
    total_bytes: Callable[[int], float | None]


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[Source]:
    """Opens a data set, by what is in the file; the path `-` is stdin.

    Raises:
        RunError: it is damaged, or not what it begins like; while it is read, too.
    """
    with contextlib.ExitStack() as stack:
        if path == STDIN:
            raw = cast(io.BufferedReader, sys.stdin.buffer)
        else:
            raw = stack.enter_context(path.open("rb"))
        try:
            yield _open(raw, path)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise RunError(f"{path} is damaged: {error}. Copy it anew.") from error


def read_object(line: bytes) -> dict[str, Any]:
    """Returns the object in a line of JSON.

    Raises:
        LineError: there is none, or it holds what JSON has not, such as NaN.
    """
    try:
        value = json.loads(line.decode(), parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise LineError(f"it must be a JSON object, got {kind(value)}")
        if _SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except LineError:
        raise
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8: {error.reason} at byte {error.start + 1}"
    except UnicodeEncodeError:
        reason = "it holds invalid Unicode, half of a surrogate pair such as \\ud800"
    except json.JSONDecodeError as error:
        reason = f"it is not JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:  # an integer of thousands of digits
        reason = f"it cannot be read: {error}"
    except RecursionError:
        reason = "it is nested too deeply to be read"
    raise LineError(reason)


def _no_constant(name: str) -> float:
    raise LineError(f"it holds {name}, which is not JSON")


def _open(raw: io.BufferedReader, path: Path) -> Source:
    size = None
    if raw.seekable():
        size = os.fstat(raw.fileno()).st_size
    else:  # a pipe may give less than what is needed to know what it is
        pipe = raw
        rest = iter(lambda: pipe.read1(_CHUNK), b"")
        raw = _reader(itertools.chain([pipe.read(4)], rest))
    begin = raw.peek(4)[:4]
    if begin == b"PAR1":
        return _parquet(raw, path)
    stream: Any = raw
    gzipped = begin[:2] == b"\x1f\x8b"
    if gzipped:
        stream = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)))
    plain_name = path.name.removesuffix(".gz")
    text = stream.peek(4).removeprefix(BOM)
    if plain_name.endswith(".json") and text.lstrip()[:1] == b"[":
        return _array(stream, path)

    def total_bytes(offset: int) -> float | None:
        if size is None:
            return None
        return offset * size / max(raw.tell(), 1) if gzipped else float(size)

    return Source(stream, total_bytes)


def _array(stream: BinaryIO, path: Path) -> Source:
    try:
        rows = json.loads(stream.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} begins like a JSON array and is none: {error}. Mend it, or give JSON "
            f"lines, as .jsonl."
        ) from error
    lines = [_line(row, json.dumps) for row in rows]
    total = float(sum(map(len, lines)))
    return Source(_reader(iter(lines)), lambda offset: total)


def _parquet(raw: io.BufferedReader, path: Path) -> Source:
    parquet = require("pyarrow.parquet", "Parquet files need", "parquet")
    try:
        file = parquet.ParquetFile(raw if raw.seekable() else io.BytesIO(raw.read()))
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise ValueError("it has two columns of one name")
    except ValueError as error:
        raise RunError(
            f"{path} begins like a Parquet file and is none: {one_line(error)}. Copy it "
            f"anew."
        ) from error
    num_rows, num_read = file.metadata.num_rows, 0

    def lines() -> Iterator[bytes]:
        nonlocal num_read
        try:
            for batch in map(_in_microseconds, file.iter_batches(1024)):
                for row in batch.to_pylist():
                    num_read += 1
                    yield _line(row, dumps)  # which has null for NaN
        except (ValueError, OSError) as error:
            raise RunError(
                f"{path} cannot be read after row {num_read:,}: {one_line(error)}. Copy "
                f"it anew, or write it as JSON lines."
            ) from error

    return Source(_reader(lines()), lambda offset: offset * num_rows / max(num_read, 1))


def _line(row: Any, write: Callable[..., str]) -> bytes:
    try:
        text = write(row, ensure_ascii=False, default=_as_json).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which the row's error names
        text = write(row, default=_as_json).encode()
    return text + b"\n"


def _in_microseconds(batch: Any) -> Any:
    """Returns a batch whose times are as Python has them: pandas writes nanoseconds."""
    pyarrow = require("pyarrow", "Parquet files need", "parquet")
    for i, field in enumerate(batch.schema):
        if pyarrow.types.is_timestamp(field.type) and field.type.unit == "ns":
            kind = pyarrow.timestamp("us", field.type.tz)
            column = batch.column(i).cast(kind, safe=False)
            batch = batch.set_column(i, field.name, column)
    return batch


def _as_json(value: Any) -> Any:
    """Returns what JSON has for a value of Parquet that it lacks."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return float(value) if isinstance(value, decimal.Decimal) else str(value)


def _reader(lines: Iterator[bytes]) -> io.BufferedReader:
    return io.BufferedReader(_Lines(lines))


class _Lines(io.RawIOBase):
    """A stream of the bytes of lines."""

    def __init__(self, lines: Iterator[bytes]):
        self._lines, self._left = lines, b""

    def readable(self) -> bool:
        """Returns true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer, with a part of a line if need be."""
        if not self._left:
            self._left = next(self._lines, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size
