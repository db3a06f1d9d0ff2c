"""One training run between compiled chunks: logs, checkpoints, and when to stop."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from rljax.numerics.compiler import Stopwatch
from rljax.numerics.processes import agree, is_main
from rljax.training import checkpoint
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps, write_atomically
from rljax.training.loggers import (
    JsonLines,
    LogEntry,
    Logger,
    Row,
    TensorBoard,
    log_line,
    read_rows,
)
from rljax.training.manifest import differences
from rljax.training.populations import reusable
from rljax.training.progress import Console
from rljax.training.run_folder import RunFolder, stopped

State = TypeVar("State")


class Progress(NamedTuple):
    """How far a run is, over all of its processes; stored with every checkpoint.

    Attributes:
        step: updates taken.
        stopped: whether it reached its target, and takes no more.
        seconds_run: seconds spent, without compiling.
        seconds_compile: seconds spent compiling.
    """

    step: int = 0
    stopped: bool = False
    seconds_run: float = 0.0
    seconds_compile: float = 0.0


class RunLogger:
    """Logs a training run, saves checkpoints when due, and stops it.

    Call `start`, pass `on_log` and `updates_left` to `train`, then call
    `check_finished` and `finish`.

    Args:
        folder: the run's directory.
        num_updates: updates of the whole run.
        steps_per_update: environment steps in one update, over all members; or whatever
            `unit` counts.
        headline: name of the value to show in the progress bar.
        stop_at: stop, for good, once every member's headline value is at least this.
        unit: the plural of what an update takes, as rows and results call it.

    Attributes:
        rows: all rows so far, of all processes.
        progress: how far the run is.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        num_updates: int,
        steps_per_update: int,
        headline: str,
        stop_at: float | None = None,
        unit: str = "env_steps",
    ):
        self.rows: list[Row] = []
        self.progress = self._before = Progress()
        self._folder = folder
        self._num_updates, self._steps_per_update = num_updates, steps_per_update
        self._headline, self._stop_at, self._unit = headline, stop_at, unit
        self._loggers: list[Logger] = []
        self._stopwatch = Stopwatch()
        self._saved_at = 0.0
        self._diverged: set[int] = set()

    @property
    def updates_left(self) -> int:
        """Updates still to take; none once the run has reached its target."""
        return 0 if self.progress.stopped else self._num_updates - self.progress.step

    @property
    def last(self) -> Row:
        """The last row."""
        return self.rows[-1]

    def start(self, init: Callable[..., State], *args: Any) -> State:
        """Returns the newest checkpoint's state, or `init(*args)` if there is none.

        Also opens the logs: call it once, before training.
        """
        stopwatch, restored = Stopwatch(), None
        if (path := self._folder.path) is not None:
            like = shapes_as_placed(init, *args)
            restored = checkpoint.restore_latest(path / "checkpoints", like)
        if restored is None:
            # The keys may be used again, for a picture of the untrained policy.
            state = jax.jit(init)(*reusable(args))
        else:
            state, metadata = restored
            self._before = self._resumed(metadata)
            log_line(f"going on from update {self._before.step:,} in {path}")
        compiling = self._before.seconds_compile + stopwatch.seconds_compile
        self._before = self.progress = self._before._replace(seconds_compile=compiling)
        self._open_logs(path)
        self._saved_at, self._stopwatch = time.monotonic(), Stopwatch()
        return state

    def on_log(self, state: Any, entry: LogEntry) -> bool:
        """Logs an entry of `train`, saves if due, and returns whether to stop."""
        interrupted = self._folder.should_stop() is not None
        seconds = self._stopwatch.seconds_run
        steps = (entry.step - self._before.step) * self._steps_per_update
        evaluation = self._without_diverged(entry)
        row: Row = {
            "step": entry.step,
            self._unit: entry.step * self._steps_per_update,
            f"{self._unit}_per_second": steps / max(seconds, 1e-9),
            "seconds_run": self._before.seconds_run + seconds,
            **entry.metrics,
            **evaluation,
        }
        row = json.loads(dumps(row))
        self.rows.append(row)
        for logger in self._loggers:
            logger.write(row)
        compiling = self._before.seconds_compile + self._stopwatch.seconds_compile
        reached = agree(self._reached_target(row))
        self.progress = Progress(entry.step, reached, row["seconds_run"], compiling)
        stop = reached or interrupted
        unsaved = time.monotonic() - self._saved_at
        due = agree(unsaved >= self._folder.options.checkpoint_every)
        if entry.step and (stop or due or entry.step == self._num_updates):
            self._save(state)
        return stop

    def _without_diverged(self, entry: LogEntry) -> dict[str, np.ndarray]:
        """The evaluation, NaN in the place of members that have diverged."""
        new = set(np.flatnonzero(entry.diverged).tolist()) - self._diverged
        if new:
            self._diverged |= new
            log_line(
                f"warning: of the runs, {', '.join(map(str, sorted(new)))} diverged before "
                f"update {entry.step:,}: left out of all figures that follow"
            )

        def without(values: np.ndarray) -> np.ndarray:
            per_run = values.ndim and len(values) == entry.diverged.size
            if not per_run or not np.issubdtype(values.dtype, np.floating):
                return values
            lost = entry.diverged.reshape(-1, *(1,) * (values.ndim - 1))
            return np.where(lost, np.nan, values)

        return {name: without(values) for name, values in entry.evaluation.items()}

    def check_finished(self) -> None:
        """Raises a RunError, about how to resume, if a signal stopped the run early."""
        if (signal_name := self._folder.should_stop()) and self.updates_left:
            where = f"update {self.progress.step:,} of {self._num_updates:,}"
            raise stopped(signal_name, where, self._folder.path)

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result of the finished run, as `RunFolder.finish` does."""
        totals = self.progress._asdict() | {self._unit: self.last[self._unit]}
        return self._folder.finish(result, totals, unit=self._unit)

    def _reached_target(self, row: Row) -> bool:
        if self._stop_at is None or self._headline not in row:
            return False
        values = np.asarray(row[self._headline], np.float64)  # null becomes NaN
        return bool(np.all(values >= self._stop_at))

    def _save(self, state: Any) -> None:
        if (path := self._folder.path) is None:
            return
        for logger in self._loggers:
            logger.sync()  # the rows must be on the disk before their checkpoint is
        metadata = {"settings": self._folder.manifest["settings"]}
        metadata |= self.progress._asdict()
        checkpoint.save(path / "checkpoints", self.progress.step, state, metadata)
        self._saved_at = time.monotonic()

    def _resumed(self, metadata: dict[str, Any]) -> Progress:
        changed = ["it was not saved by a run"]
        if {"settings", *Progress._fields} <= metadata.keys():
            settings = self._folder.manifest["settings"]
            changed = differences(metadata["settings"], settings)
        if changed:
            raise CheckpointError(
                f"the newest checkpoint in {self._folder.path}/checkpoints is not of "
                f"this run: {'; '.join(changed)}. Remove it, or choose another --out."
            )
        return Progress(**{name: metadata[name] for name in Progress._fields})

    def _open_logs(self, folder: Path | None) -> None:
        step = self.progress.step
        if folder is not None:
            path = folder / "metrics.jsonl"
            self.rows = _rows_until(path, step) if step else []
            if is_main():
                write_atomically(path, "".join(dumps(x) + "\n" for x in self.rows))
                self._add(JsonLines(path))
            if self._folder.options.tensorboard and is_main():
                self._add(TensorBoard(folder / "tensorboard", step and step + 1))
        if self.updates_left and is_main():
            self._add(Console(self._num_updates, self._headline, self._unit))

    def _add(self, logger: Logger) -> None:
        self._loggers.append(logger)
        self._folder.on_exit(logger.close)


def shapes_as_placed(init: Callable[..., State], *args: Any) -> State:
    """Returns the shapes of what `init` returns, and where that lies of several devices."""
    shapes = jax.eval_shape(init, *args)
    if jax.device_count() == 1:
        return shapes
    placed = jax.jit(init).lower(*args).compile().output_shardings
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=where if len(where.device_set) > 1 else None
        ),
        shapes,
        placed,
    )


def _rows_until(path: Path, step: int) -> list[Row]:
    """Returns the rows up to an update; raises a RunError if they do not reach it."""
    try:
        rows = read_rows(path, step)
        if not rows or rows[-1]["step"] != step:
            raise ValueError(f"{path} does not reach update {step:,}")
    except ValueError as error:
        raise RunError(
            f"{error}, though there is a checkpoint of update {step:,}. Restore the "
            f"file, or choose another --out."
        ) from error
    return rows
