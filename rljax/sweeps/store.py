"""A population of a sweep on disk: its progress, then its result.

result.json     the result, written last: with it the population is done
best/ worst/    checkpoints of its best and its worst run
progress.json   its progress; state/, its members then; solved/, runs that ended early
"""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import rljax.training.checkpoint
from rljax.base import Metrics
from rljax.sweeps.halving import Progress
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import log_line


class BestAndWorst(NamedTuple):
    """Final states of the best and the worst run; None where no run finished."""

    best: Any
    worst: Any


class PopulationResult(NamedTuple):
    """The result of a population of P points and S seeds after E evaluations.

    Attributes:
        returns: `[P, S, E]`.
        status: `[P, S]`.
        reached: `[P]`: the last evaluation of each point.
        metrics: `[P, S, E]` each, by name.
        ends: final states.
        seconds_run: seconds, without compiling.
        env_steps: environment steps of all its runs.
    """

    returns: np.ndarray
    status: np.ndarray
    reached: np.ndarray
    metrics: dict[str, np.ndarray]
    ends: BestAndWorst
    seconds_run: float
    env_steps: int


class Saved(NamedTuple):
    """An unfinished population.

    Attributes:
        progress: its progress.
        state: its members' states.
        metrics: those pooled since the last evaluation.
        solved: final states of the configurations that ended early.
    """

    progress: Progress
    state: Any
    metrics: Metrics
    solved: dict[int, BestAndWorst]


@dataclasses.dataclass(frozen=True)
class PopulationFolder:
    """A population's folder; what is damaged in it is reported, and made again.

    Attributes:
        path: the folder; None saves nothing.
        run: the shapes of one run's state.
    """

    path: Path | None
    run: Any

    def finish(self, result: PopulationResult) -> None:
        """Saves the result, and removes what was there to go on from."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        _write_ends(self.path, result.ends)
        about = result._asdict() | {"ends": _present(result.ends)}
        write_atomically(self.path / "result.json", dumps(about) + "\n")
        (self.path / "progress.json").unlink(missing_ok=True)
        for name in ("state", "solved"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def result(self) -> PopulationResult | None:
        """Reads the result, if there is one."""
        if self.path is None or not (self.path / "result.json").exists():
            return None
        try:
            about = read_json(self.path / "result.json")
            ends = _read_ends(self.path, self.run)
            if _present(ends) != about["ends"]:
                raise ValueError("a checkpoint of its best or worst run is missing")
            return PopulationResult(**about | _arrays(about) | {"ends": ends})
        except _DAMAGES as error:
            self._say_damaged(error)
            return None

    def save(self, progress: Progress, state: Any, metrics: Metrics) -> None:
        """Saves the progress, the members' states and the metrics pooled so far."""
        if self.path is None:
            return
        # The checkpoint before stays for as long as progress.json is about it.
        members = {"state": state, "metrics": metrics}
        rljax.training.checkpoint.save(
            self.path / "state", progress.step, members, {}, keep=2
        )
        write_atomically(self.path / "progress.json", dumps(vars(progress)) + "\n")

    def save_solved(self, point: int, ends: BestAndWorst) -> None:
        """Saves the final states of a configuration that was solved early."""
        if self.path is not None:
            _write_ends(self.path / "solved" / f"{point:04d}", ends)

    def saved(self, metrics_of: Callable[[Any], Metrics]) -> Saved | None:
        """Reads what `save` wrote last, if the population is to go on.

        Args:
            metrics_of: the shapes of one run's metrics, from those of its state.
        """
        if self.path is None or not (self.path / "progress.json").exists():
            return None
        try:
            about = read_json(self.path / "progress.json")
            progress = Progress(**about | _arrays(about))
            like = {"state": self.run, "metrics": metrics_of(self.run)}
            like = jax.tree.map(lambda x: _several(x, progress.num_runs), like)
            path = self.path / "state" / f"{progress.step:012d}"
            members, _ = rljax.training.checkpoint.restore(path, like)
            solved = {
                point: _read_ends(self.path / "solved" / f"{point:04d}", self.run)
                for point in progress.ended()
            }
        except _DAMAGES as error:
            self._say_damaged(error)
            return None
        log_line(f"going on from update {progress.step:,} in {self.path}")
        return Saved(progress, members["state"], members["metrics"], solved)

    def _say_damaged(self, error: Exception) -> None:
        log_line(f"{self.path} is damaged, and made again: {error}")


# What reading a damaged file raises.
_DAMAGES = (CheckpointError, RunError, KeyError, TypeError, ValueError)


def _write_ends(folder: Path, ends: BestAndWorst) -> None:
    for name, state in ends._asdict().items():
        if state is not None:
            rljax.training.checkpoint.save(folder / name, int(state.step), state, {})


def _read_ends(folder: Path, like: Any) -> BestAndWorst:
    def state(name: str) -> Any:
        for step in rljax.training.checkpoint.steps(folder / name)[-1:]:
            path = folder / name / f"{step:012d}"
            return rljax.training.checkpoint.restore(path, like)[0]
        return None

    return BestAndWorst(*map(state, BestAndWorst._fields))


def _present(ends: BestAndWorst) -> list[bool]:
    """Whether there is a best, and a worst."""
    return [state is not None for state in ends]


def _several(one: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *one.shape), one.dtype)


def _arrays(about: dict[str, Any]) -> dict[str, Any]:
    """The arrays that JSON holds as lists."""
    metrics = {name: np.array(x, np.float64) for name, x in about["metrics"].items()}
    return {
        "returns": np.array(about["returns"], np.float64),  # null becomes NaN
        "status": np.array(about["status"], "<U8"),
        "reached": np.array(about["reached"]),
        "metrics": metrics,
    }
