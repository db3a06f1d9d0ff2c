"""Loggers of a run's metrics: JSON lines and TensorBoard. `progress` has the terminal."""

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from rljax.base import Mean
from rljax.extras import require
from rljax.numerics.processes import is_main
from rljax.training.files import dumps, flush_to_disk

Row = dict[str, Any]
"""One log entry as plain numbers; a population's values are lists over its members."""


class LogEntry(NamedTuple):
    """The metrics that `train` passes to `on_log` between two compiled chunks.

    Attributes:
        step: updates taken since the very start.
        metrics: means since the last entry; NaN where nothing was observed. Leaves
            `[]`, or `[N]` over the members of a population.
        evaluation: what `evaluate` returned, empty if it was not due.
        seconds_compile: seconds that this call of `train` has spent compiling.
        seconds_run: all other seconds of this call.
        diverged: bool `[]` or `[N]`, whether a parameter or a loss is not finite.
    """

    step: int
    metrics: dict[str, np.ndarray]
    evaluation: dict[str, np.ndarray]
    seconds_compile: float
    seconds_run: float
    diverged: np.ndarray


def value_of(mean: Mean) -> np.ndarray:
    """Returns a mean's value, on the host; NaN where nothing was observed."""
    total, weight = np.asarray(mean.total), np.asarray(mean.weight)
    return np.where(weight > 0, total / np.maximum(weight, 1e-30), np.nan)


class Logger(Protocol):
    """A destination of a run's rows."""

    def write(self, row: Row) -> None:
        """Logs one row."""

    def sync(self) -> None:
        """Returns once all rows are on the disk."""

    def close(self) -> None:
        """Flushes and closes it."""


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
        flush_to_disk(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_rows(path: Path, last_step: int) -> list[Row]:
    """Returns a JSON-lines file's rows up to an update, without a torn last line.

    Raises:
        ValueError: a line before the last is not a row.
    """
    if not path.exists():
        return []
    rows: list[Row] = []
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


class TensorBoard:
    """Writes scalars for TensorBoard; of a population, the mean over its members.

    Raises:
        ImportError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, first_step: int):
        # Rows of an earlier process beyond the checkpoint are hidden by the viewer.
        tensorboard = require("tensorboardX", "TensorBoard logs need", "log")
        self._writer = tensorboard.SummaryWriter(
            str(folder), purge_step=first_step, filename_suffix=f".{first_step}"
        )

    def write(self, row: Row) -> None:
        """Adds every number of the row as a scalar."""
        for name, value in row.items():
            mean = float(np.mean(np.asarray(value, np.float64)))
            if name != "step" and math.isfinite(mean):
                self._writer.add_scalar(name, mean, row["step"])

    def sync(self) -> None:
        """Writes out what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Writes out what is buffered and closes the file."""
        self._writer.close()


def log_line(text: str) -> None:
    """Prints one line to stderr, in the first process only; stdout is for results."""
    if is_main():
        print(text, file=sys.stderr, flush=True)  # noqa: T201
