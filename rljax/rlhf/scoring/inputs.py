"""The input of scoring as lines of JSON: text, gzipped text, an array, Parquet, stdin."""

import contextlib
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from rljax.extras import require
from rljax.training.files import RunError, dumps

STDIN = Path("-")


class Source(NamedTuple):
    """Lines of JSON, and how many bytes they will be, given the bytes read so far.

    The number is an estimate where the file's size does not say it, None if nothing does.
    """

    stream: BinaryIO
    total_bytes: Callable[[int], float | None]


@contextlib.contextmanager
def open_input(path: Path) -> Iterator[Source]:
    """Opens a file to score, by what is in it; the path `-` is stdin.

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


def _open(raw: io.BufferedReader, path: Path) -> Source:
    begin = raw.peek(4)[:4]
    if begin == b"PAR1":
        return _parquet(raw, path)
    size = os.fstat(raw.fileno()).st_size if raw.seekable() else None
    stream: Any = raw
    gzipped = begin[:2] == b"\x1f\x8b"
    if gzipped:
        stream = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)))
    plain_name = path.name.removesuffix(".gz")
    if plain_name.endswith(".json") and stream.peek(1).lstrip()[:1] == b"[":
        return _array(stream, path)

    def total_bytes(offset: int) -> float | None:
        if size is None:
            return None
        return offset * size / max(raw.tell(), 1) if gzipped else float(size)

    return Source(stream, total_bytes)


def _array(stream: BinaryIO, path: Path) -> Source:
    try:
        rows = json.loads(stream.read().decode())
    except ValueError as error:
        raise RunError(
            f"{path} begins like a JSON array and is none: {error}. Mend it, or give JSON "
            f"lines, as .jsonl."
        ) from error
    lines = [_line(json.dumps(row, ensure_ascii=False)) for row in rows]
    total = float(sum(map(len, lines)))
    return Source(_reader(iter(lines)), lambda offset: total)


def _parquet(raw: io.BufferedReader, path: Path) -> Source:
    parquet = require("pyarrow.parquet", "Parquet files need", "parquet")
    try:
        file = parquet.ParquetFile(raw if raw.seekable() else io.BytesIO(raw.read()))
    except ValueError as error:
        raise RunError(
            f"{path} begins like a Parquet file and is none: {error}. Copy it anew."
        ) from error
    num_rows, num_read = file.metadata.num_rows, 0

    def lines() -> Iterator[bytes]:
        nonlocal num_read
        for batch in file.iter_batches(1024):
            for row in batch.to_pylist():
                num_read += 1
                # JSON has no dates, and no numbers that are not finite.
                yield _line(dumps(row, ensure_ascii=False, default=str))

    return Source(_reader(lines()), lambda offset: offset * num_rows / max(num_read, 1))


def _line(text: str) -> bytes:
    # Half of a surrogate pair stays, for the row's error to name it.
    return text.encode(errors="surrogatepass") + b"\n"


def _reader(lines: Iterator[bytes]) -> BinaryIO:
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
