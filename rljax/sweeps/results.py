"""The results of a sweep, labelled: configuration x seed x evaluation."""

import csv
import dataclasses
import functools
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.numerics.statistics import (
    bootstrap_interval,
    interquartile_mean,
    probability_of_improvement,
)
from rljax.training.files import dumps, write_atomically
from rljax.training.loggers import TensorBoard

FINISHED, DIVERGED, DROPPED = "finished", "diverged", "dropped"

COLUMNS = frozenset(
    [
        *("index", "label", "configuration", "seed", "env_steps", "return", "status"),
        *(FINISHED, DIVERGED, DROPPED, "return_iqm", "return_ci95", "first_better"),
    ]
)
"""Columns of every sweep's results, after which no swept value may be named."""


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The evaluations of C configurations, with S seeds each, at E evaluations.

    Attributes:
        configurations: C mappings of the same names to values, numbers or tuples.
        seeds: S whole numbers.
        env_steps: `[C, E]` environment steps that each run had taken.
        returns: float64 `[C, S, E]`, each the mean return of whole episodes; NaN after
            a run's end, and from where it has diverged.
        status: `[C, S]`, each "finished" (early if its configuration was solved),
            "diverged" (its parameters, losses or return are not finite) or "dropped"
            (stopped early, for others were better).
        reached: `[C]`: the last evaluation of each configuration, diverged or not.
        metrics: by name, float64 `[C, S, E]`: training's metrics, means since the
            evaluation before; NaN where nothing was observed.

    Raises:
        ValueError: the shapes do not fit one another.
    """

    configurations: tuple[dict[str, Any], ...]
    seeds: tuple[int, ...]
    env_steps: np.ndarray
    returns: np.ndarray
    status: np.ndarray
    reached: np.ndarray
    metrics: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        sizes = len(self.configurations), len(self.seeds), self.returns.shape[-1]
        shapes = {
            "env_steps": (self.env_steps, (sizes[0], sizes[2])),
            "returns": (self.returns, sizes),
            "status": (self.status, sizes[:2]),
            "reached": (self.reached, sizes[:1]),
        } | {name: (values, sizes) for name, values in self.metrics.items()}
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(
                    f"{name} of {sizes[0]} configurations, {sizes[1]} seeds and "
                    f"{sizes[2]} evaluations must have shape {shape}, got {array.shape}."
                )

    @property
    def final(self) -> np.ndarray:
        """`[C, S]` returns at the runs' ends; NaN where a run did not finish."""
        last = self._last()[:, None, None]
        ends = np.take_along_axis(self.returns, np.maximum(last, 0), axis=2)[:, :, 0]
        return np.where(self.status == FINISHED, ends, np.nan)

    def label(self, index: int) -> str:
        """One configuration in words, such as "learning_rate 0.001, gamma 0.99"."""
        values = self.configurations[index].items()
        words = ", ".join(f"{name} {value_text(value)}" for name, value in values)
        return words or "default"

    def fill(self, points: list[int], env_steps: np.ndarray, progress: Any) -> None:
        """Copies the `Progress` of a population of these points, and `[E]` steps."""
        self.env_steps[points], self.reached[points] = env_steps, progress.reached
        self.returns[points], self.status[points] = progress.returns, progress.status
        for name, values in progress.metrics.items():
            column = self.metrics.setdefault(name, np.full_like(self.returns, np.nan))
            column[points] = values

    def summary(self) -> list[dict[str, Any]]:
        """One row a configuration, the best first.

        A row has the configuration's `index`, `label` and values, the `env_steps` that
        its runs took, `finished`, `diverged` and `dropped` runs, and of the finished
        ones `return_iqm`, `return_ci95`, and `first_better`: how likely a run of the
        first row's configuration is to have a higher return; None without such runs.
        """
        return self._summary

    @functools.cached_property
    def _summary(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        first, final = np.empty(0), self.final
        for index in self.ranking():
            row = {"index": index, "label": self.label(index)}
            row |= self.configurations[index]
            row["env_steps"] = int(self.env_steps[index, self.reached[index]])
            for name in (FINISHED, DIVERGED, DROPPED):
                row[name] = int((self.status[index] == name).sum())
            row |= dict.fromkeys(("return_iqm", "return_ci95", "first_better"))
            scores = final[index][np.isfinite(final[index])]
            if len(scores):
                row["return_iqm"] = interquartile_mean(scores)
                row["return_ci95"] = bootstrap_interval(scores)
                if len(first):
                    row["first_better"] = probability_of_improvement(first, scores)
            first = first if rows else scores
            rows.append(row)
        return rows

    def ranking(self) -> list[int]:
        """The configurations' indices, the best first.

        First those that were solved, the earlier the better; then those that came
        further, those of which fewer runs diverged, those of a higher interquartile
        mean, and among equals of a higher mean of all runs.
        """

        def rank(index: int) -> tuple[float, ...]:
            reached, status = last[index], self.status[index]
            scores = self.returns[index, :, reached]
            scores = scores[~np.isnan(scores)]
            means = np.full(2, -np.inf)
            if len(scores):
                means = np.array([interquartile_mean(scores), scores.mean()])
            if reached < self.returns.shape[2] - 1 and np.all(status == FINISHED):
                return 0, reached, 0, *-means  # solved
            return 1, -reached, int((status == DIVERGED).sum()), *-means

        last = self._last()
        return sorted(range(len(self.configurations)), key=rank)

    def _last(self) -> np.ndarray:
        """`[C]`: each configuration's last evaluation at which a run had a return."""
        reached = ~np.isnan(self.returns).all(axis=1)
        last = reached.shape[1] - 1 - np.argmax(reached[:, ::-1], axis=1)
        return np.where(reached.any(axis=1), last, -1)

    def columns(self, index: int) -> list[np.ndarray]:
        """E arrays: one configuration's returns, of the runs that did not diverge."""
        sound = self.returns[index][self.status[index] != DIVERGED]
        return [column[np.isfinite(column)] for column in sound.T]

    def best(self) -> tuple[int, int] | None:
        """The best configuration and its best seed's position, if any run finished."""
        final = self.final
        for index in self.ranking():
            if np.isfinite(final[index]).any():
                return index, int(np.nanargmax(final[index]))
        return None

    def worst(self) -> tuple[int, int] | None:
        """The run of the lowest return among those that finished, if any did."""
        final = self.final
        if not np.isfinite(final).any():
            return None
        c, s = np.unravel_index(int(np.nanargmin(final)), final.shape)
        return int(c), int(s)

    def rows(self) -> list[dict[str, Any]]:
        """One row a run and evaluation: configuration, seed, return, status, metrics.

        A metric's name starts with "train/": what is swept may have the same name.
        """
        return [
            {"configuration": c, "seed": seed, **values}
            | {"env_steps": int(steps), "return": float(self.returns[c, s, e])}
            | {"status": str(self.status[c, s])}
            | {f"train/{name}": float(x[c, s, e]) for name, x in self.metrics.items()}
            for c, values in enumerate(self.configurations)
            for s, seed in enumerate(self.seeds)
            for e, steps in enumerate(self.env_steps[c])
        ]

    def save(self, folder: Path | str, *, tensorboard: bool = False) -> None:
        """Writes `results.csv`, `runs/` of JSON lines, and with `tensorboard` its logs.

        Raises:
            ImportError: tensorboardX is not installed.
        """
        folder = Path(folder)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / "results.csv", text.getvalue())
        each = self.returns.shape[2]
        for i in range(0, len(rows), each):
            run = rows[i : i + each]
            name = f"{run[0]['configuration']:04d}-seed-{run[0]['seed']}"
            lines = "".join(dumps(row) + "\n" for row in run)
            write_atomically(folder / "runs" / f"{name}.jsonl", lines)
            if tensorboard:
                shutil.rmtree(folder / "tensorboard" / name, ignore_errors=True)
                log = TensorBoard(folder / "tensorboard" / name, 0)
                shown = ["return", *(f"train/{metric}" for metric in self.metrics)]
                for row in run:
                    log.write({x: row[x] for x in shown} | {"step": row["env_steps"]})
                log.close()


def no_results(
    points: Sequence[Mapping[str, Any]], num_seeds: int, num_evaluations: int
) -> Results:
    """Results of C points before any run, for `fill`."""
    shape = len(points), num_seeds
    return Results(
        configurations=tuple(dict(point) for point in points),
        seeds=tuple(range(num_seeds)),
        env_steps=np.zeros((len(points), num_evaluations), np.int64),
        returns=np.full((*shape, num_evaluations), np.nan),
        status=np.full(shape, DROPPED, dtype="<U8"),
        reached=np.zeros(len(points), int),
    )


def value_text(value: Any) -> str:
    """A value that is swept, in words: 0.001, 512, 64 x 64."""
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
