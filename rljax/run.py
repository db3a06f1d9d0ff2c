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
import datetime
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

import rljax.checkpoint
from rljax.checkpoint import CheckpointError
from rljax.metrics import (
    Console,
    JsonLines,
    Report,
    Row,
    Sink,
    TensorBoard,
    dumps,
    read_rows,
    write_atomically,
)

State = TypeVar("State")
Settings = TypeVar("Settings")


class RunError(RuntimeError):
    """The run cannot go on; the message says why and what to do."""


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
    ):
        self.folder = options.out
        self.result: dict[str, Any] | None = None
        self.rows: list[Row] = []
        self.step = 0
        self.interrupted_by: str | None = None
        self._options = options
        self._num_updates, self._steps_per_update = num_updates, steps_per_update
        self._headline = headline
        self._stopped = False
        self._first_step = 0
        self._saved_at = 0.0
        self._seconds_before = 0.0
        self._seconds_init = self._seconds_train = 0.0
        self._sinks: list[Sink] = []
        self._exit = contextlib.ExitStack()
        if self.folder is not None:
            self._open(self.folder, {"experiment": name} | flat(settings))

    def __enter__(self) -> "Run":
        if self.result is None:
            self._exit.enter_context(self._signals())
        return self

    def __exit__(self, *exception: Any) -> None:
        for sink in self._sinks:
            sink.close()
        self._exit.close()

    @property
    def updates_left(self) -> int:
        """Updates still to take; none once the run has stopped early."""
        return 0 if self._stopped else self._num_updates - self.step

    @property
    def seconds_compile(self) -> float:
        """Seconds that this process has spent compiling."""
        return self._seconds_init + self._seconds_train

    def start(self, init: Callable[..., State], *args: Any) -> State:
        """The newest checkpoint's state, or `init(*args)` if there is none.

        Also opens the logs: call it once, before training.
        """
        restored = None
        if self.folder is not None:
            like = jax.eval_shape(init, *args)
            restored = rljax.checkpoint.restore_latest(self._checkpoints, like)
        if restored is None:
            started = time.perf_counter()
            program = jax.jit(init).lower(*args).compile()
            self._seconds_init = time.perf_counter() - started
            state = program(*args)
        else:
            state, about = restored
            self.step = self._first_step = about["step"]
            self._stopped = about["stopped"]
            self._seconds_before = about["seconds_run"]
            say(f"going on from update {self.step:,} in {self.folder}")
        self._open_logs()
        return state

    def on_log(self, state: Any, report: Report, stop: bool = False) -> bool:
        """Takes a report of `train`: logs, saves, and says whether to stop.

        Args:
            state: the learner's state.
            report: what it reports.
            stop: stop here, for good: a goal is reached.
        """
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
        self._stopped = self._stopped or stop
        stop = stop or self.interrupted_by is not None
        last = report.step == self._num_updates
        now = time.monotonic()
        due = now - self._saved_at >= self._options.checkpoint_every
        if self.folder is not None and (due or stop or last) and report.step:
            about = {
                "step": report.step,
                "seconds_run": seconds,
                "stopped": self._stopped,
            }
            rljax.checkpoint.save(self._checkpoints, report.step, state, about)
            self._saved_at = time.monotonic()
        return stop

    def check_finished(self) -> None:
        """Refuses to go on to the result if a signal cut the run short.

        Raises:
            RunError: it did; the message says how to go on.
        """
        if self.interrupted_by is None or not self.updates_left:
            return
        how = (
            "nothing was kept; with --out DIR the same command would go on"
            if self.folder is None
            else f"the same command goes on from there ({self.folder})"
        )
        raise RunError(
            f"stopped by {self.interrupted_by} at update {self.step:,} of "
            f"{self._num_updates:,}: {how}."
        )

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result; the run is finished. Returns it as it was written."""
        text = dumps(result)
        if self.folder is not None:
            write_atomically(self.folder / "result.json", text + "\n")
        self.result = json.loads(text)
        return self.result

    @property
    def _checkpoints(self) -> Path:
        assert self.folder is not None
        return self.folder / "checkpoints"

    def _open(self, folder: Path, settings: dict[str, Any]) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"--out must be a directory, got the file {folder}. Choose another."
            )
        manifest_file = folder / "manifest.json"
        if not manifest_file.exists():
            alien = [p.name for p in folder.glob("*") if not p.name.startswith(".")]
            if alien:
                raise UsageError(
                    f"--out must be new, empty or a run's directory, got {folder}, "
                    f"which holds {alien[0]!r} and no manifest.json. Choose another."
                )
        else:
            _check_same_settings(folder, _read_json(manifest_file), settings)
        folder.mkdir(parents=True, exist_ok=True)
        self._exit.enter_context(_locked(folder))
        if not manifest_file.exists():
            manifest = {"settings": settings, **environment()}
            write_atomically(manifest_file, dumps(manifest, indent=1) + "\n")
        elif (folder / "result.json").exists():
            self.result = _read_json(folder / "result.json")

    def _open_logs(self) -> None:
        self._saved_at = time.monotonic()
        if self.folder is not None:
            path = self.folder / "metrics.jsonl"
            self.rows = read_rows(path, self.step if self.step else -1)
            text = "".join(dumps(row) + "\n" for row in self.rows)
            write_atomically(path, text)
            self._sinks.append(JsonLines(path))
            if self._options.tensorboard:
                self._sinks.append(TensorBoard(self.folder / "tensorboard", self.step))
        if self.updates_left:
            self._sinks.append(Console(self._num_updates, self._headline))

    @contextlib.contextmanager
    def _signals(self):
        """SIGTERM and Ctrl-C ask to stop after the chunk; a second one stops at once."""

        def ask(number, frame):
            self.interrupted_by = signal.Signals(number).name
            say(f"{self.interrupted_by}: stopping after this chunk; again to stop now")
            signal.signal(number, before[number])

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


def launch(
    main: Callable[[Settings], dict[str, Any]],
    settings: type[Settings],
    description: str | None,
) -> None:
    """Runs an experiment from the command line, and exits.

    Flags are the dataclass's fields. The last line of stdout is the result as JSON.
    Exit status: 0 done, 1 the run failed (one line says why), 2 bad usage.
    """
    import tyro

    try:
        parsed = tyro.cli(
            settings, description=description, config=(tyro.conf.OmitArgPrefixes,)
        )
        use_compile_cache()
        result = main(parsed)
    except (CheckpointError, RunError, OSError, ImportError, MemoryError) as error:
        say(f"error: {error}")
        sys.exit(1)
    except ValueError as error:
        if not _is_ours(error):
            raise
        say(f"error: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("error: stopped at once; what was saved before is whole.")
        sys.exit(1)
    print(dumps(result), flush=True)  # noqa: T201


def use_compile_cache() -> None:
    """Turns JAX's persistent compilation cache on, for every program however small.

    It lies where `JAX_COMPILATION_CACHE_DIR` says, or in the user's cache folder. A
    folder that cannot be written is one warning, and no cache.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    default = Path(home) / "rljax" / "xla"
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or default
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        jax.config.update("jax_enable_compilation_cache", False)
        say(
            f"warning: no compile cache, {folder} cannot be written ({error.strerror}); "
            f"set JAX_COMPILATION_CACHE_DIR to a folder that can."
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def device() -> str:
    """The kind and number of devices that JAX computes on, such as "cpu x 1"."""
    devices = jax.devices()
    return f"{devices[0].device_kind} x {len(devices)}"


def environment() -> dict[str, Any]:
    """Versions and device, to go beside every result."""
    packages = ("rljax", "jax", "jaxlib", "flax", "optax", "chex", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "versions": versions,
        "device": device(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def flat(settings: Any) -> dict[str, Any]:
    """The fields of nested dataclasses as JSON values by dotted name."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, RunOptions):
            continue
        if dataclasses.is_dataclass(value):
            out |= {f"{field.name}.{k}": v for k, v in flat(value).items()}
        elif isinstance(value, float) and not math.isfinite(value):
            out[field.name] = str(value)
        elif isinstance(value, int | float | str | bool | None):
            out[field.name] = value
        else:
            out[field.name] = json.loads(json.dumps(np.asarray(value).tolist()))
    return out


def say(text: str) -> None:
    """One line on stderr; stdout is for results."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _is_ours(error: BaseException) -> bool:
    """Whether a ValueError was raised by this package about its input, not within JAX."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return module.split(".")[0] in ("rljax", "__main__")


@contextlib.contextmanager
def _locked(folder: Path):
    """Keeps other processes out of a directory; the kernel unlocks it at our death."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is at work in {folder}. Wait for it, or choose "
                f"another --out."
            ) from None
        yield


def _check_same_settings(folder: Path, manifest: Any, settings: dict[str, Any]) -> None:
    stored = manifest["settings"]
    differences = [
        f"{name} is {stored.get(name, 'absent')} there and "
        f"{settings.get(name, 'absent')} here"
        for name in sorted(stored.keys() | settings.keys())
        if stored.get(name) != settings.get(name)
    ]
    if differences:
        raise UsageError(
            f"{folder} holds a run of other settings: {'; '.join(differences)}. Repeat "
            f"them, or choose another --out."
        )
    versions = environment()["versions"]
    if stored_versions := manifest.get("versions"):
        changed = [
            f"{name} {stored_versions.get(name)} then, {version} now"
            for name, version in versions.items()
            if stored_versions.get(name) != version
        ]
        if changed:
            warnings.warn(
                f"{folder} was begun with other versions ({'; '.join(changed)}): going "
                f"on may differ from an uninterrupted run in the last bits.",
                stacklevel=2,
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read: {error}. Restore it, or choose another --out."
        ) from error
