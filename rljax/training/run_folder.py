"""The directory of a run, a sweep or a search: lock, settings, checkpoints, result.

    manifest.json   settings, versions and device, written first
    metrics.jsonl   one row per log entry
    checkpoints/    the newest few
    result.json     the headline figures, written last: with it the run is finished

The same command on an unfinished directory resumes from its newest checkpoint; on a
finished one it returns the stored result; with other settings it is refused.
"""

import contextlib
import dataclasses
import json
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rljax.numerics.precision import MatmulPrecision
from rljax.numerics.processes import agree, gather, is_main, num_processes
from rljax.training.distributed import check_same_everywhere
from rljax.training.files import RunError, dumps, locked, read_json, write_atomically
from rljax.training.interrupts import Interrupts, catch_interrupts
from rljax.training.manifest import device, differences, manifest

# What a process killed before it wrote manifest.json leaves behind.
_LEFTOVERS = (".lock", ".manifest.json.", ".metrics.jsonl.", ".result.json.")


class UsageError(ValueError):
    """The command cannot be carried out as given; nothing was changed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how often a run is saved, and what it runs on; it changes no setting."""

    out: Path | None = None
    """Directory of the run. Without it nothing is kept on disk."""
    checkpoint_every: float = 60.0
    """Seconds between checkpoints."""
    tensorboard: bool = False
    """Also write TensorBoard logs into the directory."""
    distributed: str | None = None
    """One of several processes: auto (SLURM, Open MPI, Cloud TPU), or HOST:PORT,N,I, the
    first one's address, how many there are, and which this one is. All share --out."""
    connect_timeout: int = 50
    """Seconds to wait for the other processes."""
    matmul_precision: MatmulPrecision = "default"
    """Of products of float32 on a GPU or TPU: highest is float32, default what is fast."""

    def __post_init__(self):
        if isinstance(self.out, str):
            object.__setattr__(self, "out", Path(self.out))
        if self.tensorboard and self.out is None:
            raise ValueError(
                "tensorboard needs a directory to write to, got tensorboard=True and "
                "out=None. Name one with --out."
            )
        if not self.checkpoint_every >= 0:
            raise ValueError(
                f"checkpoint_every must be a number of seconds, got "
                f"{self.checkpoint_every}. Use 0 for a checkpoint at every log entry."
            )


class RunFolder:
    """Locks a run's directory, checks that it holds this run, and stores the result.

    A context manager. Without a directory in `options`, nothing is stored.

    Args:
        name: the experiment's name, part of the settings.
        settings: a dataclass of everything that changes the result; fields whose
            metadata are `{"setting": False}`, such as the `RunOptions`, are left out.
        options: where and how the run is saved.

    Attributes:
        options: as passed.
        path: the directory, or None.
        manifest: settings, versions and machine, as in manifest.json.
        result: the stored result of a finished run, else None.

    Raises:
        UsageError: the directory holds something else, or a run of other settings.
        RunError: another process uses the directory.
    """

    def __init__(self, name: str, settings: Any, options: RunOptions):
        self.options, self.path = options, options.out
        self.manifest = manifest(name, settings)
        self.result: dict[str, Any] | None = None
        self._exit = contextlib.ExitStack()
        self._interrupts: Interrupts | None = None
        if jax.process_count() > num_processes():
            raise UsageError(
                f"this is one of {jax.process_count()} processes that share devices, and "
                f"was not told so. Give --distributed auto."
            )
        self._check_same_everywhere()
        with self._exit as until_open:  # closed if opening fails
            if self.path is not None:
                self._open_as_one(self.path)
            self._exit = until_open.pop_all()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._exit.close()

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Calls a function when the folder is closed, before the lock is released."""
        self._exit.callback(callback)

    def should_stop(self) -> str | None:
        """Returns the signal that asks to stop, "SIGTERM" or "SIGINT", if one came.

        From the first call on, the first signal is only recorded: call it once there is
        something to save. Of several processes all call it, and stop if one of them got
        a signal.
        """
        if self._interrupts is None:
            self._interrupts = self._exit.enter_context(catch_interrupts())
        signals = gather(self._interrupts.received)
        return next((name for name in signals if name is not None), None)

    def finish(
        self,
        result: dict[str, Any],
        totals: dict[str, Any],
        *,
        unit: str = "env_steps",
    ) -> dict[str, Any]:
        """Writes the headline figures to result.json, which finishes the run.

        Args:
            result: figures of this kind of run.
            totals: `env_steps`, `seconds_run` and `seconds_compile`; `result` prevails.
            unit: what is counted instead of environment steps.

        Returns:
            All figures of result.json, the first process's in every process.
        """
        totals = totals | result
        names = ("seconds_compile", "seconds_run", unit)
        common = {"device": device()} | {name: totals[name] for name in names}
        rate = totals[unit] / max(totals["seconds_run"], 1e-9)
        text = dumps(common | {f"{unit}_per_second": rate} | result)
        if self.path is not None and is_main():
            write_atomically(self.path / "result.json", text + "\n")
        self.result = agree(json.loads(text))
        return self.result

    def _check_same_everywhere(self) -> None:
        """Of several processes, raises a UsageError if one is about to run another run."""
        groups = ("settings", "versions", "machine")
        same = ("out", "checkpoint_every", "tensorboard")
        options = {name: str(getattr(self.options, name)) for name in same}
        try:
            check_same_everywhere(
                {group: self.manifest[group] for group in groups} | {"options": options}
            )
        except ValueError as error:
            raise UsageError(str(error)) from None

    def _open_as_one(self, folder: Path) -> None:
        """The first process opens the folder, and all others learn how that ended."""
        error: UsageError | RunError | None = None
        if is_main():
            try:
                self._open(folder)
            except (UsageError, RunError) as raised:
                error = raised
        found = agree([self.result, type(error).__name__, str(error)])
        self.result, kind, text = found
        if error is not None:
            raise error
        if kind != "NoneType":
            raise (UsageError if kind == "UsageError" else RunError)(text)
        if self.result is None and num_processes() > 1:
            self._check_shared(folder)

    def _check_shared(self, folder: Path) -> None:
        """Raises a UsageError, in every process, if the folder is another one in some."""
        name = agree(f".lock-{secrets.token_hex(8)}")
        if is_main():
            (folder / name).touch()
        agree(None)
        seen = gather((folder / name).exists())
        if is_main():
            (folder / name).unlink()
        if not all(seen):
            raise UsageError(
                f"--out must be one folder that all processes share, but {folder} of "
                f"process {seen.index(False)} is another than the first one's. Name a "
                f"folder on a file system that they share, by its whole path."
            )

    def _open(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"--out must be a directory, got the file {folder}. Choose another."
            )
        path = folder / "manifest.json"
        names = sorted(x.name for x in folder.glob("*"))
        foreign = [name for name in names if not name.startswith(_LEFTOVERS)]
        if foreign and not path.exists():
            raise UsageError(
                f"--out must be new, empty or a run's directory, got {folder}, which "
                f"holds {foreign[0]!r} and no manifest.json. Choose another."
            )
        if (folder / "result.json").exists():  # finished: reading needs no lock
            _check_same(folder, read_json(path), self.manifest)
            self.result = read_json(folder / "result.json")
            if "seconds_run" not in self.result:
                raise RunError(
                    f"result.json in {folder} is not a run's result. Remove it, and the "
                    f"same command writes it again; or choose another --out."
                )
            return
        folder.mkdir(parents=True, exist_ok=True)
        in_use = f"another process is at work in {folder}. Wait for it, or choose another --out."
        self._exit.enter_context(locked(folder / ".lock", in_use))
        if path.exists():
            _check_same(folder, read_json(path), self.manifest)
        else:
            write_atomically(path, dumps(self.manifest, indent=1) + "\n")


def stopped(signal_name: str, where: str, folder: Path | None) -> RunError:
    """Returns the error, with how to resume, to raise where a signal stopped a run."""
    how = (
        "nothing was kept; with --out DIR the same command would go on"
        if folder is None
        else f"the same command goes on from there ({folder})"
    )
    return RunError(f"stopped by {signal_name} at {where}: {how}.")


def _check_same(folder: Path, stored: dict[str, Any], current: dict[str, Any]) -> None:
    groups = ("settings", "versions", "machine")
    if not all(isinstance(stored.get(group), dict) for group in groups):
        raise UsageError(
            f"--out must be new, empty or a run's directory, got {folder}, whose "
            f"manifest.json is not a run's. Choose another."
        )
    if changed := differences(stored["settings"], current["settings"]):
        raise UsageError(
            f"{folder} holds a run of other settings: {'; '.join(changed)}. Repeat "
            f"them, or choose another --out."
        )
    for group in groups[1:]:
        if changed := differences(stored[group], current[group]):
            warnings.warn(
                f"{folder} was begun otherwise: {'; '.join(changed)}. Going on may "
                f"differ from an uninterrupted run in the last bits.",
                stacklevel=2,
            )
