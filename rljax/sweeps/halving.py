"""How far a part of a sweep has come, and which of its configurations go on."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from rljax.base import Metrics
from rljax.sweeps.results import DIVERGED, DROPPED, FINISHED, Results
from rljax.training.loggers import value_of


@dataclasses.dataclass
class Progress:
    """How far a part has come.

    Attributes:
        returns: `[P, S, E]`; NaN where there is none yet, or none any more.
        status: `[P, S]`.
        reached: `[P]`: the last evaluation of each point, sound or not.
        alive: the points that are still trained, in the order of the population.
        moments: evaluations made.
        step: updates that those in training have taken.
        metrics: `[P, S, E]` each: what training said before each evaluation.
        updates: updates taken, of all points together.
        seconds: spent, without compiling.
    """

    returns: np.ndarray
    status: np.ndarray
    reached: np.ndarray
    alive: list[int]
    moments: int = 0
    step: int = 0
    metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    updates: int = 0
    seconds: float = 0.0

    def train(self, num_updates: int) -> None:
        """Takes down updates of the population."""
        self.step += num_updates
        self.updates += num_updates * len(self.alive)

    def take(self, found: dict[str, np.ndarray], said: Metrics) -> None:
        """Takes down an evaluation of the population, and what it said before it."""
        before = self.status[self.alive]

        def its(values: np.ndarray) -> np.ndarray:
            return values[: before.size].reshape(before.shape)

        score, finite = its(found["return"]), its(found["finite"])
        sound = finite & np.isfinite(score) & (before == FINISHED)
        score = np.where(sound, score, np.nan)
        self.returns[self.alive, :, self.moments] = score
        self.status[self.alive] = np.where(sound, FINISHED, DIVERGED)
        self.reached[self.alive] = self.moments
        for name, mean in said.items():
            kept = self.metrics.setdefault(name, np.full_like(self.returns, np.nan))
            kept[self.alive, :, self.moments] = its(value_of(mean))
        self.moments += 1

    def newest(self) -> np.ndarray:
        """`[P, S]` of the last evaluation."""
        return self.returns[:, :, self.moments - 1]

    def done(self) -> bool:
        """Whether all evaluations are made, or no point is in training any more."""
        return self.moments == self.returns.shape[2] or not self.alive

    def solved(self, target: float) -> list[int]:
        """The points in training all of whose runs have this return, or a higher one."""
        reached = np.all(self.newest() >= target, axis=1)
        return [point for point in self.alive if reached[point]]

    def ended(self) -> list[int]:
        """The points that were solved, and so are in training no more."""
        sound = np.flatnonzero(np.all(self.status == FINISHED, axis=1)).tolist()
        return [point for point in sound if point not in self.alive]

    def halve(self, solved: Collection[int]) -> list[int]:
        """Lets go of points, and of the worse of the others, down to a power of two.

        Args:
            solved: the points that end here, and those that ended before.

        Returns:
            The rows of those that go on.
        """
        ranking = self.results().ranking()
        others = [p for p in ranking if p in self.alive and p not in solved]
        count = 1 << max((len(others) - 1).bit_length() - 1, 0)
        dropped = others[count:]
        sound = self.status[dropped] == FINISHED
        self.status[dropped] = np.where(sound, DROPPED, self.status[dropped])
        kept = sorted(others[:count])
        rows, self.alive = self.rows(kept), kept
        return rows

    def rows(self, points: Sequence[int]) -> list[int]:
        """Where the runs of some points are in the population."""
        return rows_of(self.alive, points, self.status.shape[1])

    def results(self) -> Results:
        """The evaluations made so far."""
        returns = self.returns[:, :, : self.moments]
        count, seeds = self.status.shape
        about = ({},) * count, tuple(range(seeds)), np.zeros((count, self.moments))
        return Results(*about, returns, self.status, self.reached)


def rows_of(
    population: Sequence[int], points: Sequence[int], num_seeds: int
) -> list[int]:
    """Where the runs of some points are in a population of these points."""
    where = {point: place for place, point in enumerate(population)}
    return [where[point] * num_seeds + s for point in points for s in range(num_seeds)]
