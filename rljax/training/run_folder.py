"""A run on disk: settings, progress, checkpoints and result in one directory.

    manifest.json   settings, versions and device, written first
    metrics.jsonl   one row a report
    checkpoints/    the newest few
    result.json     the headline figures, written last: with it the run is finished

The same command on an unfinished directory goes on from its newest checkpoint; on a
finished one it repeats the result; with other settings it refuses.
"""

import contextlib
import dataclasses
import json
import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

import rljax.training.checkpoint
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import (
    Console,
    JsonLines,
    Report,
    Row,
    Sink,
    TensorBoard,
    read_rows,
    say,
)
from rljax.training.manifest import device, differences, manifest

State = TypeVar("State")


_OURS = (".lock", ".manifest.json.", ".metrics.jsonl.", ".result.json.")


class UsageError(ValueError):
    """The command asks for something that cannot be; nothing was touched."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run is kept, and how often; none of it changes the result."""

    out: Path | None = None
    """Directory of the run. Without it nothing is kept on disk."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints."""
    tensorboard: bool = False
    """Also write TensorBoard logs into the directory."""

    def __post_init__(self):
        if self.tensorboard and self.out is None:
            raise ValueError(
                "tensorboard needs a directory to write to, got tensorboard=True and "
                "out=None. Name one with --out."
            )
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"checkpoint_every must be a number of seconds, got "
                f"{self.checkpoint_every}. Use 0 for a checkpoint at every report."
            )


class Run:
    """One run and its directory; a context manager.

    Args:
        name: what runs, part of the settings.
        settings: a dataclass of everything that changes the result; its `RunOptions`
            are left out.
        options: where and how the run is kept.
        num_updates: updates of the whole run.
        steps_per_update: environment steps in one update, over all members.
        headline: name of the value to show in the progress bar.
        stop_at: stop, for good, once every member's headline value is at least this.

    Raises:
        UsageError: the directory holds something else, or a run of other settings.
        RunError: another process is at work in the directory.
    """

    def __init__(
        self,
        name: str,
        settings: Any,
        options: RunOptions,
        *,
        num_updates: int,
        steps_per_update: int,
        headline: str,
        stop_at: float | None = None,
    ):
        self.folder = options.out
        self.result: dict[str, Any] | None = None
        self.rows: list[Row] = []
        self.step = 0
        self.interrupted_by: str | None = None
        self._options = options
        self._num_updates, self._steps_per_update = num_updates, steps_per_update
        self._headline, self._stop_at = headline, stop_at
        self._stopped = self._listening = False
        self._first_step = 0
        self._saved_at = 0.0
        self._seconds_before = 0.0
        self._seconds_init = self._seconds_train = 0.0
        self._sinks: list[Sink] = []
        self._exit = contextlib.ExitStack()
        self._seconds_compile_before = 0.0
        self._manifest = manifest(name, settings)
        if self.folder is not None:
            try:
                self._open(self.folder)
            except BaseException:
                self._exit.close()
                raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._exit.close()

    @property
    def updates_left(self) -> int:
        """Updates still to take; none once the run has stopped early."""
        return 0 if self._stopped else self._num_updates - self.step

    @property
    def seconds_compile(self) -> float:
        """Seconds spent compiling, by all the processes that had a part in the run."""
        here = self._seconds_init + self._seconds_train
        return self._seconds_compile_before + here

    @property
    def last(self) -> Row:
        """The last report's row."""
        return self.rows[-1]

    def start(self, init: Callable[..., State], *args: Any) -> State:
        """The newest checkpoint's state, or `init(*args)` if there is none.

        Also opens the logs: call it once, before training.
        """
        restored = None
        if self.folder is not None:
            like = jax.eval_shape(init, *args)
            restored = rljax.training.checkpoint.restore_latest(self._checkpoints, like)
        if restored is None:
            started = time.perf_counter()
            program = jax.jit(init).lower(*args).compile()
            self._seconds_init = time.perf_counter() - started
            state = program(*args)
        else:
            state, about = restored
            self._resume(about)
            say(f"going on from update {self.step:,} in {self.folder}")
        self._open_logs()
        return state

    def on_log(self, state: Any, report: Report) -> bool:
        """Takes a report of `train`: logs, saves, and says whether to stop."""
        self.asked_to_stop()
        self.step = report.step
        self._seconds_train = report.seconds_compile
        seconds = self._seconds_before + report.seconds_run
        taken = report.step - self._first_step
        rate = taken * self._steps_per_update / max(report.seconds_run, 1e-9)
        row = {
            "step": report.step,
            "env_steps": report.step * self._steps_per_update,
            "env_steps_per_second": rate,
            "seconds_run": seconds,
            **report.metrics,
            **report.evaluation,
        }
        row = json.loads(dumps(row))
        self.rows.append(row)
        for sink in self._sinks:
            sink.write(row)
        if self._stop_at is not None and self._headline in row:
            values = np.asarray(row[self._headline], np.float64)  # null becomes NaN
            self._stopped = bool(np.all(values >= self._stop_at))
        stop = self._stopped or self.interrupted_by is not None
        last = report.step == self._num_updates
        now = time.monotonic()
        due = now - self._saved_at >= self._options.checkpoint_every
        if self.folder is not None and (due or stop or last) and report.step:
            for sink in self._sinks:
                sink.sync()  # a checkpoint must not outlive the rows before it
            about = {
                "settings": self._manifest["settings"],
                "step": report.step,
                "seconds_run": seconds,
                "seconds_compile": self.seconds_compile,
                "stopped": self._stopped,
            }
            rljax.training.checkpoint.save(self._checkpoints, report.step, state, about)
            self._saved_at = time.monotonic()
        return stop

    def asked_to_stop(self) -> str | None:
        """The signal that asks to stop, if one came: SIGTERM, or Ctrl-C's SIGINT.

        From the first call on they only ask, once. Make it when there is something to
        save: while a program compiles, a signal ends the process at once.
        """
        if not self._listening:
            self._listening = True
            self._exit.enter_context(self._signals())
        return self.interrupted_by

    def check_finished(self) -> None:
        """Refuses to go on to the result if a signal cut the run short.

        Raises:
            RunError: it did; the message says how to go on.
        """
        if self.interrupted_by is not None and self.updates_left:
            where = f"update {self.step:,} of {self._num_updates:,}"
            raise stopped(self.interrupted_by, where, self.folder)

    def finish(self, result: dict[str, Any], last: Row | None = None) -> dict[str, Any]:
        """Writes the headline figures, with which the run is finished.

        Args:
            result: figures of this kind of run.
            last: `env_steps` and `seconds_run`; by default the last report's.

        Returns:
            Those and what every run has, as they were written.
        """
        last = self.last if last is None else last
        every = {
            "device": device(),
            "seconds_compile": self.seconds_compile,
            "seconds_run": last["seconds_run"],
            "env_steps": last["env_steps"],
            "env_steps_per_second": last["env_steps"] / max(last["seconds_run"], 1e-9),
        }
        text = dumps(every | result)
        if self.folder is not None:
            write_atomically(self.folder / "result.json", text + "\n")
        self.result = json.loads(text)
        return self.result

    @property
    def _checkpoints(self) -> Path:
        assert self.folder is not None
        return self.folder / "checkpoints"

    def _open(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"--out must be a directory, got the file {folder}. Choose another."
            )
        path = folder / "manifest.json"
        alien = [p.name for p in folder.glob("*") if not p.name.startswith(_OURS)]
        if alien and not path.exists():
            raise UsageError(
                f"--out must be new, empty or a run's directory, got {folder}, which "
                f"holds {sorted(alien)[0]!r} and no manifest.json. Choose another."
            )
        if (folder / "result.json").exists():  # finished: reading needs no lock
            _check_same(folder, read_json(path), self._manifest)
            self.result = read_json(folder / "result.json")
            if "seconds_run" not in self.result:
                raise RunError(
                    f"result.json in {folder} is not a run's result. Remove it, and the "
                    f"same command writes it again; or choose another --out."
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._exit.enter_context(_locked(folder))
        if path.exists():
            _check_same(folder, read_json(path), self._manifest)
        else:
            write_atomically(path, dumps(self._manifest, indent=1) + "\n")

    def _resume(self, about: dict[str, Any]) -> None:
        wanted = {"settings", "step", "seconds_run", "seconds_compile", "stopped"}
        other = ["it was not saved by a run"]
        if wanted <= about.keys():
            other = differences(about["settings"], self._manifest["settings"])
        if other:
            raise CheckpointError(
                f"the newest checkpoint in {self._checkpoints} is not of this run: "
                f"{'; '.join(other)}. Remove it, or choose another --out."
            )
        self.step = self._first_step = about["step"]
        self._stopped = about["stopped"]
        self._seconds_before = about["seconds_run"]
        self._seconds_compile_before = about["seconds_compile"]

    def _open_logs(self) -> None:
        self._saved_at = time.monotonic()
        if self.folder is not None:
            path = self.folder / "metrics.jsonl"
            if self.step:
                self.rows = self._old_rows(path)
            text = "".join(dumps(row) + "\n" for row in self.rows)
            write_atomically(path, text)
            self._add(JsonLines(path))
            if self._options.tensorboard:
                first = self.step + 1 if self.step else 0
                self._add(TensorBoard(self.folder / "tensorboard", first))
        if self.updates_left:
            self._add(Console(self._num_updates, self._headline))

    def _old_rows(self, path: Path) -> list[Row]:
        try:
            rows = read_rows(path, self.step)
            if not rows or rows[-1]["step"] != self.step:
                raise ValueError(f"{path} does not reach update {self.step:,}")
        except ValueError as error:
            raise RunError(
                f"{error}, though there is a checkpoint of update {self.step:,}. Restore "
                f"the file, or choose another --out."
            ) from error
        return rows

    def _add(self, sink: Sink) -> None:
        self._sinks.append(sink)
        self._exit.callback(sink.close)

    @contextlib.contextmanager
    def _signals(self):
        """SIGTERM and Ctrl-C ask to stop where it can be kept; a second one stops at once."""

        def ask(number, frame):
            signal.signal(number, before[number])
            self.interrupted_by = signal.Signals(number).name
            text = (
                f"{self.interrupted_by}: stopping once all is kept; again to stop now"
            )
            os.write(2, text.encode() + b"\n")  # print may be what was interrupted

        before = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread: signals are the caller's business
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def stopped(signal_name: str, where: str, folder: Path | None) -> RunError:
    """What to raise where a signal cut a run short; it says how to go on."""
    how = (
        "nothing was kept; with --out DIR the same command would go on"
        if folder is None
        else f"the same command goes on from there ({folder})"
    )
    return RunError(f"stopped by {signal_name} at {where}: {how}.")


@contextlib.contextmanager
def _locked(folder: Path):
    """Keeps other processes out of a directory; the kernel unlocks it at our death."""
    try:
        import fcntl
    except ImportError:  # not a Unix: no lock
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is at work in {folder}. Wait for it, or choose "
                f"another --out."
            ) from None
        yield


def _check_same(folder: Path, stored: dict[str, Any], about: dict[str, Any]) -> None:
    groups = ("settings", "versions", "machine")
    if not all(isinstance(stored.get(group), dict) for group in groups):
        raise UsageError(
            f"--out must be new, empty or a run's directory, got {folder}, whose "
            f"manifest.json is not a run's. Choose another."
        )
    if changed := differences(stored["settings"], about["settings"]):
        raise UsageError(
            f"{folder} holds a run of other settings: {'; '.join(changed)}. Repeat "
            f"them, or choose another --out."
        )
    for group in groups[1:]:
        if changed := differences(stored[group], about[group]):
            warnings.warn(
                f"{folder} was begun otherwise: {'; '.join(changed)}. Going on may "
                f"differ from an uninterrupted run in the last bits.",
                stacklevel=2,
            )
