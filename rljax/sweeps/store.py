"""A part of a sweep on disk: how far it is, and what came of it.

part.json       what came of it, written last: with it the part is done
best/ worst/    checkpoints of its best and its worst run
progress.json   how far it is; state/, the population then; solved/, who ended before
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import rljax.training.checkpoint
from rljax.sweeps.halving import Progress
from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError, dumps, read_json, write_atomically
from rljax.training.loggers import log_line


class Ends(NamedTuple):
    """States at their runs' ends, None where no run finished."""

    best: Any
    worst: Any


class Part(NamedTuple):
    """What came of a part: returns and metrics `[P, S, E]`, status `[P, S]`, states.

    And the evaluation `[P]` up to which each point was trained.
    """

    returns: np.ndarray
    status: np.ndarray
    reached: np.ndarray
    metrics: dict[str, np.ndarray]
    ends: Ends
    seconds_run: float
    env_steps: int


class Saved(NamedTuple):
    """Where a part was when it was saved: its members' states, and who ended before."""

    progress: Progress
    state: Any
    solved: dict[int, Ends]


@dataclasses.dataclass(frozen=True)
class PartFolder:
    """A part's folder; what is damaged in it is said, and made again.

    Attributes:
        path: the folder; None keeps nothing.
        run: the shapes of one run's state.
        member: the shapes of one member of the population, which has that and more.
    """

    path: Path | None
    run: Any
    member: Any

    def finish(self, part: Part) -> None:
        """Keeps what came of the part."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        _write_ends(self.path, part.ends)
        about = part._asdict() | {"ends": _known(part.ends)}
        write_atomically(self.path / "part.json", dumps(about) + "\n")
        (self.path / "progress.json").unlink(missing_ok=True)
        for name in ("state", "solved"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    def part(self) -> Part | None:
        """What came of the part, if it was done before."""
        if self.path is None or not (self.path / "part.json").exists():
            return None
        try:
            about = read_json(self.path / "part.json")
            ends = _read_ends(self.path, self.run)
            if _known(ends) != about["ends"]:
                raise ValueError("a checkpoint of its best or worst run is missing")
            return Part(**about | _arrays(about) | {"ends": ends})
        except _DAMAGES as error:
            self._say_damaged(error)
            return None

    def save(self, progress: Progress, state: Any) -> None:
        """Keeps how far the part is, and its members' states."""
        if self.path is None:
            return
        # The one before is kept for as long as progress.json tells of it.
        rljax.training.checkpoint.save(
            self.path / "state", progress.step, state, {}, keep=2
        )
        write_atomically(self.path / "progress.json", dumps(vars(progress)) + "\n")

    def save_solved(self, point: int, ends: Ends) -> None:
        """Keeps where the runs of a configuration ended that was solved early."""
        if self.path is not None:
            _write_ends(self.path / "solved" / f"{point:04d}", ends)

    def saved(self) -> Saved | None:
        """What `save` kept last, if the part is to go on."""
        if self.path is None or not (self.path / "progress.json").exists():
            return None
        try:
            about = read_json(self.path / "progress.json")
            progress = Progress(**about | _arrays(about))
            count = len(progress.alive) * progress.status.shape[1]
            like = jax.tree.map(lambda x: _several(x, count), self.member)
            path = self.path / "state" / f"{progress.step:012d}"
            state, _ = rljax.training.checkpoint.restore(path, like)
            solved = {
                point: _read_ends(self.path / "solved" / f"{point:04d}", self.run)
                for point in progress.ended()
            }
        except _DAMAGES as error:
            self._say_damaged(error)
            return None
        log_line(f"going on from update {progress.step:,} in {self.path}")
        return Saved(progress, state, solved)

    def _say_damaged(self, error: Exception) -> None:
        log_line(f"{self.path} is damaged, and made again: {error}")


# What reading files raises that are not as they were written.
_DAMAGES = (CheckpointError, RunError, KeyError, TypeError, ValueError)


def _write_ends(folder: Path, ends: Ends) -> None:
    for name, state in ends._asdict().items():
        if state is not None:
            rljax.training.checkpoint.save(folder / name, int(state.step), state, {})


def _read_ends(folder: Path, like: Any) -> Ends:
    def state(name: str) -> Any:
        for step in rljax.training.checkpoint.steps(folder / name)[-1:]:
            path = folder / name / f"{step:012d}"
            return rljax.training.checkpoint.restore(path, like)[0]
        return None

    return Ends(*map(state, Ends._fields))


def _known(ends: Ends) -> list[bool]:
    """Which of them there are."""
    return [state is not None for state in ends]


def _several(one: jax.ShapeDtypeStruct, count: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, *one.shape), one.dtype)


def _arrays(about: dict[str, Any]) -> dict[str, Any]:
    """What JSON has of a part as lists, as the arrays that they were."""
    metrics = {name: np.array(x, np.float64) for name, x in about["metrics"].items()}
    return {
        "returns": np.array(about["returns"], np.float64),  # null becomes NaN
        "status": np.array(about["status"], "<U8"),
        "reached": np.array(about["reached"]),
        "metrics": metrics,
    }
