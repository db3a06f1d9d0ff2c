"""Successive halving: the progress of a population, and which configurations go on."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from rljax.sweeps.results import DIVERGED, DROPPED, FINISHED, Results


@dataclasses.dataclass
class Progress:
    """The progress of a population of P points and S seeds.

    Attributes:
        returns: `[P, S, E]`; NaN before and after a run was evaluated.
        status: `[P, S]`.
        reached: `[P]`: the last evaluation of each point, sound or not.
        alive: the points in training, in the order of the population.
        num_evaluations: evaluations made.
        step: updates that a run in training has taken.
        metrics: `[P, S, E]` each: means since the evaluation before.
        updates: updates taken, of all points together.
        seconds: seconds of training and evaluating, without compiling.
    """

    returns: np.ndarray
    status: np.ndarray
    reached: np.ndarray
    alive: list[int]
    num_evaluations: int = 0
    step: int = 0
    metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    updates: int = 0
    seconds: float = 0.0

    @property
    def num_runs(self) -> int:
        """Runs in training."""
        return len(self.alive) * self.status.shape[1]

    def train(self, step: int) -> None:
        """Records that the population has been trained up to an update."""
        self.updates += (step - self.step) * len(self.alive)
        self.step = step

    def record(
        self, evaluation: dict[str, np.ndarray], metrics: dict[str, np.ndarray]
    ) -> None:
        """Records an evaluation and the metrics since the last one, both `[N]`."""
        before = self.status[self.alive]

        def of_runs(values: np.ndarray) -> np.ndarray:
            return values[: before.size].reshape(before.shape)

        score = of_runs(evaluation["return"])
        sound = np.isfinite(score) & (before == FINISHED)
        sound &= of_runs(evaluation["finite"])
        score = np.where(sound, score, np.nan)
        self.returns[self.alive, :, self.num_evaluations] = score
        self.status[self.alive] = np.where(sound, FINISHED, DIVERGED)
        self.reached[self.alive] = self.num_evaluations
        for name, values in metrics.items():
            column = self.metrics.setdefault(name, np.full_like(self.returns, np.nan))
            column[self.alive, :, self.num_evaluations] = of_runs(values)
        self.num_evaluations += 1

    def newest(self) -> np.ndarray:
        """`[P, S]` of the last evaluation."""
        return self.returns[:, :, self.num_evaluations - 1]

    def done(self) -> bool:
        """Whether all evaluations are made, or no point is in training any more."""
        return self.num_evaluations == self.returns.shape[2] or not self.alive

    def solved(self, target: float) -> list[int]:
        """The points in training all of whose runs have at least this return."""
        return [x for x in self.alive if np.all(self.newest()[x] >= target)]

    def ended(self) -> list[int]:
        """The points that were solved, and so are in training no more."""
        sound = np.flatnonzero(np.all(self.status == FINISHED, axis=1)).tolist()
        return [point for point in sound if point not in self.alive]

    def halve(self, solved: Collection[int]) -> list[int]:
        """Drops the worse of the points that are not solved, down to a power of two.

        Returns:
            The rows of the points that go on.
        """
        ranking = self.results().ranking()
        others = [p for p in ranking if p in self.alive and p not in solved]
        count = 1 << max((len(others) - 1).bit_length() - 1, 0)
        dropped = others[count:]
        status = self.status[dropped]
        self.status[dropped] = np.where(status == FINISHED, DROPPED, status)
        kept = sorted(others[:count])
        rows, self.alive = self.rows(kept), kept
        return rows

    def rows(self, points: Sequence[int]) -> list[int]:
        """Where the runs of some points are in the population."""
        return rows_of(self.alive, points, self.status.shape[1])

    def results(self) -> Results:
        """The evaluations made so far."""
        returns = self.returns[:, :, : self.num_evaluations]
        count, seeds, _ = returns.shape
        env_steps = np.zeros_like(returns[:, 0])
        arrays = env_steps, returns, self.status, self.reached
        return Results(({},) * count, tuple(range(seeds)), *arrays)


def rows_of(
    population: Sequence[int], points: Sequence[int], num_seeds: int
) -> list[int]:
    """Where the runs of some points are in a population of these points."""
    firsts = [population.index(point) * num_seeds for point in points]
    return [first + seed for first in firsts for seed in range(num_seeds)]
