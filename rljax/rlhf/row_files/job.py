r"""A file of rows made into another of JSON lines, and gone on with where it was killed.

    OUT.part        rows so far, in the input's order
    OUT.part.json   what they were made with, and how far they are known to be whole
    OUT             all rows, once there are all
    OUT.run.json    what they were made with, and the figures

The same command on a part goes on after its last whole window, so every row is there
once; on a finished file it repeats the figures; where what it would do differs from what
was done, it refuses. Lines of the input that were not read yet may be changed.
"""

import contextlib
import dataclasses
import glob
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from rljax.rlhf.data.pairs import Example
from rljax.rlhf.data.sources import STDIN, Source, open_input
from rljax.rlhf.row_files.counts import Counts, Progress
from rljax.rlhf.row_files.display import Display
from rljax.rlhf.row_files.lines import Reader, Row, RowFileError, Window, bad_line
from rljax.training.files import (
    RunError,
    dumps,
    flush_to_disk,
    locked,
    sync,
    write_atomically,
)
from rljax.training.interrupts import Interrupted, catch_interrupts
from rljax.training.manifest import differences
from rljax.training.progress import ProgressTicker

FORMAT = 1
Results = TypeVar("Results")
Done = TypeVar("Done", bound=Progress)
Part = TypeVar("Part")


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


def rewrite(
    work: Work[Results, Done],
    input: Path,
    output: Path,
    *,
    settings: dict[str, Any],
    fingerprint: dict[str, str],
    error_rows: bool = False,
) -> dict[str, Any]:
    """Writes what work makes of every row of a file, in order; see the module.

    The input is JSON lines (gzipped or not), a JSON array or Parquet, or stdin (`-`). The
    output does not exist yet, or was begun by the same call: a part of other `settings`,
    JSON values by name, or of another `fingerprint`, is refused. With `error_rows` a row
    of which nothing can be made becomes one with the reason, rather than an error; a part
    without any may go on either way.

    Returns:
        The figures, as they lie in OUT.run.json.

    Raises:
        RowFileError: nothing can be made of a row, the part or the output is of something
            else, another process writes it, or a signal or the disk stopped us.
    """
    input, output = Path(input), Path(output)
    check_paths(input, output)
    about = {"format": FORMAT, "settings": settings, "fingerprint": fingerprint}
    job = _Job(work, input, output, about, error_rows)
    try:
        with catch_interrupts(raise_at_once=True):
            if output.exists():
                return job.repeat()
            output.parent.mkdir(parents=True, exist_ok=True)
            with open_input(input) as source, _lock(job.part) as sink:
                job.resume(source.stream, sink)
                job.go_on(source, sink)
                return job.finish()
    except Interrupted as error:
        raise RowFileError(
            f"stopped by {error}: the same command goes on after row "
            f"{job.done.rows:,} ({job.part})."
        ) from None
    except OSError as error:
        raise RowFileError(
            f"{error}. Make room, or make it writable, or choose another --output; the "
            f"same command goes on after row {job.done.rows:,}."
        ) from error
    except RunError as error:
        raise RowFileError(*error.args) from error.__cause__


def check_paths(input: Path, output: Path) -> None:
    """Refuses files of which nothing can be made whatever is done.

    Raises:
        RowFileError: the input is no file that can be read, or also the output.
    """
    try:
        if input == STDIN:
            return
        if not input.is_file():
            what = "a folder" if input.is_dir() else "no file"
            raise RowFileError(
                f"the input must be a file of rows, got {input}, which is {what}. Choose "
                f"another --input."
            )
        input.open("rb").close()
        if output.is_dir():
            raise RowFileError(
                f"the output must be a file, got the folder {output}. Name a file in it "
                f"with --output."
            )
        for path in (output, *_beside(output)):
            if path.exists() and path.samefile(input):
                raise RowFileError(
                    f"{input} is read, so it cannot be written as {path.name} too. "
                    f"Choose another --output."
                )
    except OSError as error:
        raise RowFileError(
            f"{error}. Make it readable, or choose another file."
        ) from error


def settings_before(output: Path) -> dict[str, Any]:
    """Returns the settings that an output was begun with; nothing if it was not begun."""
    _, sidecar, run = _beside(Path(output))
    if sidecar.exists():
        return _read(sidecar, dict)[0]["settings"]
    if Path(output).exists() and run.exists():
        return _read(run, dict)[0]["settings"]
    return {}


class _Job(Generic[Results, Done]):
    """The making of one output from one input."""

    def __init__(
        self,
        work: Work[Results, Done],
        input: Path,
        output: Path,
        about: dict[str, Any],
        error_rows: bool,
    ):
        self.done = work.start
        self.part, self._sidecar, self._run = _beside(output)
        self._work, self._input, self._output = work, input, output
        self._about, self._error_rows = about, error_rows
        self._reader = Reader(input, work.read, error_rows)

    def repeat(self) -> dict[str, Any]:
        """Returns the figures of a finished output, or of one that lacks only its name."""
        size = self._output.stat().st_size
        unnamed = not self.part.exists() or not self.part.stat().st_size
        if self._sidecar.exists() and unnamed:
            with _lock(self._output):
                about, done = _read(self._sidecar, type(self.done))
                if "result" in about and done.output_bytes == size:
                    self._sidecar.replace(self._run)
                    sync(self._run.parent)
        remedy = f"Remove {self._output.name}, or choose another --output."
        if not self._run.exists():
            raise RowFileError(
                f"{self._output} exists, and there is no {self._run.name} to say what it "
                f"is, so it is not overwritten. {remedy}"
            )
        about, done = _read(self._run, type(self.done))
        if "result" not in about:
            raise RowFileError(f"{self._run} holds no result. {remedy}")
        other = self._differences(about, done)
        if size != done.output_bytes:
            other.append(f"it had {done.output_bytes:,} bytes and has {size:,}")
        with open_input(self._input) as source:
            self._reader.skip(source.stream, done.input_bytes + 1)
        if self._reader.hash.hexdigest() != done.input_sha256:
            other.append(f"{self._input} holds other lines than it was made from")
        if other:
            raise RowFileError(
                f"{self._output} exists and is not overwritten, as it is not what this "
                f"command would write: {'; '.join(other)}. {remedy}"
            )
        return about["result"]

    def resume(self, source: BinaryIO, sink: BinaryIO) -> None:
        """Cuts the part back to what is known to be whole, and skips its input."""
        size = os.fstat(sink.fileno()).st_size
        again = (
            f"Remove {self.part.name} and {self._sidecar.name} to begin again, or choose "
            f"another --output."
        )
        if self._sidecar.exists():
            about, done = _read(self._sidecar, type(self.done))
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
                        f"{self._input} was changed in its first {done.input_bytes:,} "
                        f"bytes, of which {self.part} already has the rows. Restore "
                        f"them. {again}"
                    )
                self.done = done
        elif size:
            raise RowFileError(
                f"{self.part} holds {size:,} bytes, and there is no "
                f"{self._sidecar.name} to say what they are. {again}"
            )
        self._save()  # from here on the part is known to be ours
        sink.truncate(self.done.output_bytes)
        sink.seek(self.done.output_bytes)

    def go_on(self, source: Source, sink: BinaryIO) -> None:
        """Writes all the rows that are left, window by window."""
        display = Display(self.done, lambda: source.total_bytes(self._reader.offset))
        lines = self._reader.windows(source.stream, self._work.window)
        windows = self._work.stream(lines, display.on_batch)
        with ProgressTicker(display.line), contextlib.closing(windows):  # type: ignore[type-var]
            for window, results, counts in windows:
                text, done = self._rows(window, results)
                sink.write(text)
                sink.flush()
                flush_to_disk(sink.fileno())
                self.done = done + counts
                self._save()
                display.on_written(self.done)

    def finish(self) -> dict[str, Any]:
        """Gives the files their last names; a kill in between is mended by `repeat`."""
        result = json.loads(dumps(self.done.result()))
        self._save(result=result)
        if self._output.exists():
            raise RowFileError(
                f"{self._output} has appeared while {self.part.name} was written, and is "
                f"not overwritten. Remove it, and give the same command again."
            )
        torn = glob.escape(f".{self._sidecar.name}.") + "*"  # a write that was killed
        for path in self._output.parent.glob(torn):
            path.unlink()
        self.part.replace(self._output)
        self._sidecar.replace(self._run)
        sync(self._output.parent)
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
            if error is not None and not self._error_rows:
                raise bad_line(self._input, number, error)
            if error is not None:
                reason = f"line {number}: {error.rstrip('.')}"
                text = self._work.write_error(row, reason)
                done.errors += 1
            lines.append(text)
        text = b"".join(lines)
        done.output_bytes += len(text)
        return text, done

    def _save(self, **more: Any) -> None:
        about = self._about | {"done": dataclasses.asdict(self.done)} | more
        write_atomically(self._sidecar, dumps(about, indent=1) + "\n")

    def _differences(self, about: dict[str, Any], done: Done) -> list[str]:
        other = differences(about["settings"], self._about["settings"])
        other += differences(about["fingerprint"], self._about["fingerprint"])
        if done.errors and not self._error_rows:
            other.append("error_rows is True there and False here")
        return other


def _beside(output: Path) -> tuple[Path, Path, Path]:
    """The part, its sidecar, and the sidecar of the finished file."""
    part, run = (output.with_name(output.name + end) for end in (".part", ".run.json"))
    return part, part.with_name(part.name + ".json"), run


def _read(path: Path, kind: Callable[..., Part]) -> tuple[dict[str, Any], Part]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format must be {FORMAT}, got {about['format']!r}")
        for group in ("settings", "fingerprint"):
            if not isinstance(about[group], dict):
                raise ValueError(f"it has no {group}")
        return about, kind(**about["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise RowFileError(
            f"{path} is not what this command writes: {error!r}. Remove it together with "
            f"the file that it describes, or choose another --output."
        ) from error


def _lock(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    remedy = "Wait for it, or choose another --output."
    return locked(path, f"another process is writing {path}. {remedy}")
