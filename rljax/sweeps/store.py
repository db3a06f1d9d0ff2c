"""A population of a sweep on disk: its progress, then its result.

result.json     the result, written last: with it the population is done
best/ worst/    checkpoints of its best and its worst run
progress.json   its progress; state/, its members then; solved/, runs that ended early
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import numpy as np

from rljax.numerics.processes import agree, gather, is_main
from rljax.sweeps.halving import Progress
from rljax.training import checkpoint
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import log_line
from rljax.training.loop import PooledMetrics


class BestAndWorst(NamedTuple):
    """Final states of the best and the worst run; None where no run finished."""

    best: Any
    worst: Any


T = TypeVar("T")
Saved: TypeAlias = tuple[Progress, Any, PooledMetrics, dict[int, BestAndWorst]]


@dataclasses.dataclass(frozen=True)
class PopulationFolder:
    """A population's folder; what is damaged in it is reported, and made again.

    Of several processes all call its methods, with the same arguments.

    Attributes:
        path: the folder; None saves nothing.
        run: the shapes of one run's state.
    """

    path: Path | None
    run: Any

    def finish(self, progress: Progress, ends: BestAndWorst) -> None:
        """Saves the result, and removes what was there to go on from."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        _write_ends(self.path, ends)
        if not is_main():
            return
        about = vars(progress) | {"ends": _present(ends)}
        write_atomically(self.path / "result.json", dumps(about) + "\n")
        (self.path / "progress.json").unlink(missing_ok=True)
        for name in ("state", "solved"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def result(self) -> tuple[Progress, BestAndWorst] | None:
        """Reads the result, if there is one."""

        def read(path: Path, about: dict[str, Any]) -> tuple[Progress, BestAndWorst]:
            ends = _read_ends(path, self.run)
            if _present(ends) != about.pop("ends"):
                raise ValueError("a checkpoint of its best or worst run is missing")
            return _progress(about), ends

        return self._read("result.json", read)

    def save(self, progress: Progress, state: Any, metrics: PooledMetrics) -> None:
        """Saves the progress, the members' states and the metrics pooled so far."""
        if self.path is None:
            return
        # The checkpoint before stays for as long as progress.json is about it.
        members = {"state": state, "metrics": metrics}
        checkpoint.save(self.path / "state", progress.step, members, {}, keep=2)
        if is_main():
            write_atomically(self.path / "progress.json", dumps(vars(progress)) + "\n")

    def save_solved(self, point: int, ends: BestAndWorst) -> None:
        """Saves the final states of a configuration that was solved early."""
        if self.path is not None:
            _write_ends(self.path / "solved" / f"{point:04d}", ends)

    def saved(self, metrics: PooledMetrics) -> Saved | None:
        """Reads what `save` wrote last, if the population is to go on.

        Args:
            metrics: the shapes of one run's.

        Returns:
            The progress, the members' states, the metrics pooled since the last
            evaluation, and the final states of configurations that ended early.
        """

        def read(path: Path, about: dict[str, Any]) -> Saved:
            progress = _progress(about)
            like = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((progress.num_runs, *x.shape), x.dtype),
                {"state": self.run, "metrics": metrics},
            )
            state = path / "state" / f"{progress.step:012d}"
            members, _ = checkpoint.restore(state, like)
            solved = {
                point: _read_ends(path / "solved" / f"{point:04d}", self.run)
                for point in progress.ended()
            }
            log_line(f"going on from update {progress.step:,} in {path}")
            return progress, members["state"], members["metrics"], solved

        return self._read("progress.json", read)

    def _read(self, name: str, read: Callable[[Path, dict[str, Any]], T]) -> T | None:
        if self.path is None or not agree((self.path / name).exists()):
            return None
        found, reason = None, None
        try:
            found = read(self.path, read_json(self.path / name))
        except (CheckpointError, RunError, KeyError, TypeError, ValueError) as error:
            reason = str(error)
        # What one process cannot read, none of them goes on from.
        if (reason := next(filter(None, gather(reason)), None)) is not None:
            log_line(f"{self.path} is damaged, and made again: {reason}")
            return None
        return found


def _write_ends(folder: Path, ends: BestAndWorst) -> None:
    for name, state in ends._asdict().items():
        if state is not None:
            checkpoint.save(folder / name, int(state.step), state, {})


def _read_ends(folder: Path, like: Any) -> BestAndWorst:
    def state(name: str) -> Any:
        for step in checkpoint.steps(folder / name)[-1:]:
            path = folder / name / f"{step:012d}"
            return checkpoint.restore(path, like)[0]
        return None

    return BestAndWorst(*map(state, BestAndWorst._fields))


def _present(ends: BestAndWorst) -> list[bool]:
    """Whether there is a best, and a worst."""
    return [state is not None for state in ends]


def _progress(about: dict[str, Any]) -> Progress:
    """Progress whose arrays are lists in JSON."""
    metrics = {name: np.array(x, np.float64) for name, x in about["metrics"].items()}
    arrays = {
        "returns": np.array(about["returns"], np.float64),  # null becomes NaN
        "status": np.array(about["status"], "<U8"),
        "reached": np.array(about["reached"]),
    }
    return Progress(**about | arrays | {"metrics": metrics})
