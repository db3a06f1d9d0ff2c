"""Where a run's numbers go: JSON lines, TensorBoard, and the terminal."""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rljax.base import Mean
from rljax.training.files import dumps

Row = dict[str, Any]
"""One report as plain numbers; a population's values are lists over its members."""


class Report(NamedTuple):
    """What a run has to say between two chunks.

    Attributes:
        step: updates taken since the very start.
        metrics: means since the last report; NaN where nothing was observed. Leaves
            `[]`, or `[N]` over the members of a population.
        evaluation: what `evaluate` returned, empty if it was not due.
        seconds_compile: seconds this process has spent compiling.
        seconds_run: seconds since, in this process.
    """

    step: int
    metrics: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]
    seconds_compile: float
    seconds_run: float


def value_of(mean: Mean) -> np.ndarray:
    """A mean's value, on the host; NaN where nothing was observed."""
    total, weight = np.asarray(mean.total), np.asarray(mean.weight)
    return np.where(weight > 0, total / np.maximum(weight, 1e-30), np.nan)


class Sink(Protocol):
    """Something that takes rows."""

    def write(self, row: Row) -> None:
        """Takes one row."""

    def sync(self) -> None:
        """Returns once what was taken would survive a power cut."""

    def close(self) -> None:
        """Takes no more."""


class JsonLines:
    """Appends rows to a file, one JSON object a line; NaN becomes null."""

    def __init__(self, path: Path):
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        """Appends a row and hands it to the operating system."""
        self._file.write(dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Puts the file on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_rows(path: Path, last_step: int) -> list[Row]:
    """The rows of a JSON-lines file up to an update; a torn last line is left out.

    Raises:
        ValueError: a line before the last is not a row.
    """
    rows: list[Row] = []
    if not path.exists():
        return rows
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            beyond = row["step"] > last_step
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):  # torn by a kill
                break
            raise ValueError(f"line {number} of {path} is not a row") from error
        if beyond:
            break
        rows.append(row)
    return rows


def require_tensorboard() -> Any:
    """The class that writes logs for TensorBoard.

    Raises:
        ImportError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoard logs need tensorboardX, which is not installed. Install it "
            "with: pip install 'rljax[log]'"
        ) from error
    return SummaryWriter


class TensorBoard:
    """Writes scalars for TensorBoard; of a population, the mean over its members.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, first_step: int):
        # Rows of an earlier process beyond the checkpoint are hidden by the viewer.
        self._writer = require_tensorboard()(
            str(folder),
            purge_step=first_step,
            filename_suffix=f".{os.getpid()}.{first_step}",
        )

    def write(self, row: Row) -> None:
        """Adds every number of the row as a scalar."""
        for name, value in row.items():
            mean = float(np.mean(np.asarray(value, np.float64)))
            if name != "step" and math.isfinite(mean):
                self._writer.add_scalar(name, mean, row["step"])

    def sync(self) -> None:
        """Hands over what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is buffered."""
        self._writer.close()


class Console:
    """Progress on stderr: a bar in a terminal, a line per evaluation elsewhere.

    Args:
        total: updates of the whole run.
        headline: name of the value to show beside the bar, where a row has it.
    """

    def __init__(self, total: int, headline: str):
        from rich import progress
        from rich.console import Console as RichConsole

        self._total, self._headline = total, headline
        self._shown = ""
        console = RichConsole(file=sys.stderr)
        self._live = console.is_terminal
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=None),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(elapsed_when_finished=True),
            progress.TextColumn("{task.fields[shown]}"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("compiling", total=total, rate="", shown="")
        self._bar.start()

    def write(self, row: Row) -> None:
        """Moves the bar."""
        evaluated = self._headline in row
        if evaluated:
            mean = float(np.mean(np.asarray(row[self._headline], np.float64)))
            self._shown = f"{self._headline.replace('_', ' ')} {mean:.1f}"
        rate = _si(row["env_steps_per_second"]) + " steps/s"
        done = row["step"] >= self._total
        self._bar.update(
            self._task,
            completed=row["step"],
            description="trained" if done else "training",
            rate=rate,
            shown=self._shown,
        )
        if evaluated and not self._live:
            say(f"update {row['step']:,}/{self._total:,}  {rate}  {self._shown}")

    def sync(self) -> None:
        """A screen keeps nothing."""

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        self._bar.stop()


def say(text: str) -> None:
    """One line on stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _si(number: float) -> str:
    """Three significant digits and a prefix: 1234567 is 1.23M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{suffix}"
    return f"{number:.3g}"
