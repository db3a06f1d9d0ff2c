"""The making of one part, window by window, and what it is called once it is whole."""

import contextlib
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import Source, open_input
from rljax.rlhf.row_files.beside import (
    WHOLE,
    Share,
    beside,
    lock,
    read,
    remove_shares,
    remove_torn,
)
from rljax.rlhf.row_files.counts import Counts, Progress
from rljax.rlhf.row_files.display import Display
from rljax.rlhf.row_files.lines import Reader, Row, RowFileError, Window, bad_line
from rljax.training.files import dumps, flush_to_disk, sync, write_atomically
from rljax.training.manifest import differences
from rljax.training.progress import ProgressTicker

Results = TypeVar("Results")
Done = TypeVar("Done", bound=Progress)


class Work(Protocol[Results, Done]):
    """What is done with the rows of a file.

    Attributes:
        window: rows or examples that are done together; progress is saved after each.
        start: nothing done yet.
    """

    @property
    def window(self) -> int: ...  # noqa: D102
    @property
    def start(self) -> Done: ...  # noqa: D102

    def read(self, line: bytes) -> Row:
        """Returns what a line that is not blank holds, or why nothing can be done."""

    def stream(
        self,
        windows: Iterator[tuple[Window, list[Example]]],
        on_batch: Callable[[Window, Counts], None],
    ) -> Iterator[tuple[Window, Results, Counts]]:
        """Yields each window with what became of its examples, and the work done."""

    def write(
        self, row: Any, results: Results, place: int, done: Done
    ) -> tuple[bytes, str | None]:
        """Returns the output of a row, or why there is none; counts it in `done`.

        The results of the row's examples begin at a place in those of the window.
        """

    def write_error(self, row: Any, reason: str) -> bytes:
        """Returns the output of a row of which nothing could be made."""


class Job(Generic[Results, Done]):
    """The making of one output from one input, or of one process's share of it."""

    def __init__(
        self,
        work: Work[Results, Done],
        input: Path,
        output: Path,
        about: dict[str, Any],
        error_rows: bool,
        share: Share = WHOLE,
    ):
        self.input, self.output, self.share = input, output, share
        self.about, self.error_rows = about, error_rows
        self.done = work.start
        self.part, self.sidecar, self.run = beside(output, share)
        self._work = work
        self._reader = Reader(input, work.read, error_rows)
        # Of a share: where each window begins and ends in the input, and bytes written.
        self._windows: list[tuple[int, int, int]] = []

    def of(self, share: Share) -> "Job[Results, Done]":
        """Returns the making of one process's share, which goes on with equal windows."""
        settings = self.about["settings"] | {"window": self._work.window}
        about = self.about | {"settings": settings}
        return Job(self._work, self.input, self.output, about, self.error_rows, share)

    def repeat(self) -> dict[str, Any]:
        """Returns the figures of a finished output, or of one that lacks only its name."""
        size = self.output.stat().st_size
        unnamed = not self.part.exists() or not self.part.stat().st_size
        if self.sidecar.exists() and unnamed:
            with lock(self.output):
                about, done = read(self.sidecar, type(self.done))
                if "result" in about and done.output_bytes == size:
                    self.sidecar.replace(self.run)
                    sync(self.run.parent)
        remedy = f"Remove {self.output.name}, or choose another --output."
        if not self.run.exists():
            raise RowFileError(
                f"{self.output} exists, and there is no {self.run.name} to say what it "
                f"is, so it is not overwritten. {remedy}"
            )
        about, done = read(self.run, type(self.done))
        if "result" not in about:
            raise RowFileError(f"{self.run} holds no result. {remedy}")
        other = self._differences(about, done)
        if size != done.output_bytes:
            other.append(f"it had {done.output_bytes:,} bytes and has {size:,}")
        with open_input(self.input) as source:
            self._reader.skip(source.stream, done.input_bytes + 1)
        if self._reader.hash.hexdigest() != done.input_sha256:
            other.append(f"{self.input} holds other lines than it was made from")
        if other:
            raise RowFileError(
                f"{self.output} exists and is not overwritten, as it is not what this "
                f"command would write: {'; '.join(other)}. {remedy}"
            )
        remove_shares(self.output)
        return about["result"]

    def resume(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Cuts the part back to what is known to be whole, and skips its input."""
        size = os.fstat(sink.fileno()).st_size
        again = (
            f"Remove {self.part.name} and {self.sidecar.name} to begin again, or choose "
            f"another --output."
        )
        if self.sidecar.exists():
            about, done = read(self.sidecar, type(self.done))
            # Until something is written, nothing is lost by beginning otherwise.
            if done.rows:
                if other := self._differences(about, done):
                    raise RowFileError(
                        f"{self.part} was begun otherwise: {'; '.join(other)}. Repeat "
                        f"that. {again}"
                    )
                if size < done.output_bytes:
                    raise RowFileError(
                        f"{self.part} is damaged: {done.output_bytes:,} bytes were "
                        f"written, and it has {size:,}. {again}"
                    )
                self._reader.skip(source, done.input_bytes)
                if self._reader.hash.hexdigest() != done.input_sha256:
                    raise RowFileError(
                        f"{self.input} was changed in its first {done.input_bytes:,} "
                        f"bytes, of which {self.part} already has the rows. Restore "
                        f"them. {again}"
                    )
                self.done, self._windows = done, about.get("windows", [])
        elif size:
            raise RowFileError(
                f"{self.part} holds {size:,} bytes, and there is no "
                f"{self.sidecar.name} to say what they are. {again}"
            )
        self._save()  # from here on the part is known to be ours
        sink.truncate(self.done.output_bytes)
        sink.seek(self.done.output_bytes)

    def begin_anew(self, sink: BinaryIO) -> None:
        """Empties the part."""
        self._save()
        sink.truncate(0)

    def go_on(self, source: Source, sink: BinaryIO) -> None:
        """Writes all the rows that are left, window by window."""
        display = Display(self.done, lambda: source.total_bytes(self._reader.offset))
        index, count = self.share
        lines = itertools.islice(
            self._reader.windows(source.stream, self._work.window),
            count - 1 if self._windows else index,
            None,
            count,
        )
        windows = self._work.stream(lines, display.on_batch)
        with (
            ProgressTicker(display.line) if index == 0 else contextlib.nullcontext(),
            contextlib.closing(windows),  # type: ignore[type-var]
        ):
            for window, results, counts in windows:
                text, done = self._rows(window, results)
                sink.write(text)
                sink.flush()
                flush_to_disk(sink.fileno())
                place = window.input_start, window.input_bytes, len(text)
                self._windows.append(place)
                self.done = done + counts
                self._save()
                display.on_written(self.done)

    def finish_share(self) -> None:
        """Notes that the part is whole, and of which input."""
        self._save(input=(self._reader.offset, self._reader.hash.hexdigest()))

    def finish(self) -> dict[str, Any]:
        """Gives the files their last names; a kill in between is mended by `repeat`."""
        result = json.loads(dumps(self.done.result()))
        self._save(result=result)
        if self.output.exists():
            raise RowFileError(
                f"{self.output} has appeared while {self.part.name} was written, and is "
                f"not overwritten. Remove it, and give the same command again."
            )
        remove_torn(self.sidecar)
        self.part.replace(self.output)
        self.sidecar.replace(self.run)
        sync(self.output.parent)
        return result

    def _rows(self, window: Window, results: Results) -> tuple[bytes, Done]:
        done = dataclasses.replace(
            self.done,
            rows=self.done.rows + len(window.rows),
            input_bytes=window.input_bytes,
            input_sha256=window.input_sha256,
        )
        lines, place = [], 0
        for number, row in window.rows:
            text, error = b"", row.error
            if error is None:
                text, error = self._work.write(row, results, place, done)
            place += len(row.pairs)
            if error is not None and not self.error_rows:
                raise bad_line(self.input, number, error)
            if error is not None:
                reason = f"line {number}: {error.rstrip('.')}"
                text = self._work.write_error(row, reason)
                done.errors += 1
            lines.append(text)
        text = b"".join(lines)
        done.output_bytes += len(text)
        return text, done

    def _save(self, **more: Any) -> None:
        about = self.about | {"done": dataclasses.asdict(self.done)} | more
        if self.share != WHOLE:
            about["windows"] = self._windows
        write_atomically(self.sidecar, dumps(about, indent=1) + "\n")

    def _differences(self, about: dict[str, Any], done: Done) -> list[str]:
        other = differences(about["settings"], self.about["settings"])
        other += differences(about["fingerprint"], self.about["fingerprint"])
        if done.errors and not self.error_rows:
            other.append("error_rows is True there and False here")
        return other
