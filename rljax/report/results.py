"""What a sweep's runs came to, labelled: configuration x seed x evaluation."""

import csv
import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np

from rljax.files import dumps, write_atomically
from rljax.report.statistics import bootstrap_interval, interquartile_mean

FINISHED, DIVERGED, DROPPED = "finished", "diverged", "dropped"


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The evaluations of C configurations, with S seeds each, at E moments.

    Attributes:
        configurations: C mappings from a parameter's name to its value, of the same
            names; what is not named is common to all.
        seeds: S whole numbers.
        env_steps: `[E]` environment steps that one run had taken.
        returns: float64 `[C, S, E]`, each the mean return of whole episodes; NaN from
            where a run has diverged or was dropped.
        status: `[C, S]`, each "finished", "diverged" (its parameters or its return are
            not finite) or "dropped" (stopped early, for others were better).

    Raises:
        ValueError: the shapes do not fit one another.
    """

    configurations: tuple[dict[str, float | int], ...]
    seeds: tuple[int, ...]
    env_steps: np.ndarray
    returns: np.ndarray
    status: np.ndarray

    def __post_init__(self):
        sizes = len(self.configurations), len(self.seeds), len(self.env_steps)
        if self.returns.shape != sizes or self.status.shape != sizes[:2]:
            raise ValueError(
                f"results of {sizes[0]} configurations, {sizes[1]} seeds and {sizes[2]} "
                f"evaluations must have returns of shape {sizes} and a status of shape "
                f"{sizes[:2]}, got {self.returns.shape} and {self.status.shape}."
            )

    @property
    def final(self) -> np.ndarray:
        """`[C, S]` returns at the last evaluation; NaN where a run did not get there."""
        return self.returns[:, :, -1]

    def label(self, index: int) -> str:
        """One configuration in words, such as "learning_rate 0.001, gamma 0.99"."""
        values = self.configurations[index].items()
        return ", ".join(f"{name} {value:.4g}" for name, value in values) or "default"

    def summary(self) -> list[dict[str, Any]]:
        """One row a configuration, the best first.

        A row has the configuration's `index`, `label` and values, `finished`,
        `diverged` and `dropped` runs, and of the finished ones `return_iqm` and
        `return_ci95`, None where there is none. Those that came further rank first,
        then those of which fewer runs diverged, then those of higher returns.
        """
        rows = []
        for index, values in enumerate(self.configurations):
            counts = {
                name: int((self.status[index] == name).sum())
                for name in (FINISHED, DIVERGED, DROPPED)
            }
            scores = self.final[index][self.status[index] == FINISHED]
            row: dict[str, Any] = {"index": index, "label": self.label(index)}
            row |= values | counts
            row["return_iqm"] = interquartile_mean(scores) if len(scores) else None
            row["return_ci95"] = bootstrap_interval(scores) if len(scores) else None
            rows.append(row)

        def rank(row: dict[str, Any]) -> tuple[float, ...]:
            reached = ~np.isnan(self.returns[row["index"]]).all(axis=0)
            last = int(np.flatnonzero(reached)[-1]) if reached.any() else -1
            scores = self.returns[row["index"], :, last]
            scores = scores[~np.isnan(scores)]
            mean = interquartile_mean(scores) if len(scores) else -np.inf
            return -last, row[DIVERGED], -mean

        return sorted(rows, key=rank)

    def columns(self, index: int) -> list[np.ndarray]:
        """E arrays: one configuration's returns, of the runs that did not diverge."""
        sound = self.returns[index][self.status[index] != DIVERGED]
        return [column[np.isfinite(column)] for column in sound.T]

    def best(self) -> tuple[int, int] | None:
        """The best configuration and its best seed's position, if any run finished."""
        scores = np.where(self.status == FINISHED, self.final, -np.inf)
        for row in self.summary():
            if row[FINISHED]:
                return row["index"], int(np.argmax(scores[row["index"]]))
        return None

    def worst(self) -> tuple[int, int] | None:
        """The run of the lowest return among those that finished, if any did."""
        scores = np.where(self.status == FINISHED, self.final, np.inf)
        c, s = np.unravel_index(int(np.argmin(scores)), scores.shape)
        return None if np.isinf(scores[c, s]) else (int(c), int(s))

    def rows(self) -> list[dict[str, Any]]:
        """One row a run and evaluation: its configuration, seed, status and return."""
        return [
            {"configuration": c, "seed": seed, **values}
            | {"env_steps": int(steps), "return": float(self.returns[c, s, e])}
            | {"status": str(self.status[c, s])}
            for c, values in enumerate(self.configurations)
            for s, seed in enumerate(self.seeds)
            for e, steps in enumerate(self.env_steps)
        ]

    def save(self, folder: Path) -> None:
        """Writes `results.csv`, and one JSON-lines file a run into `runs/`."""
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(folder / "results.csv", text.getvalue())
        each = len(self.env_steps)
        for i in range(0, len(rows), each):
            name = f"{rows[i]['configuration']:04d}-seed-{rows[i]['seed']}.jsonl"
            lines = "".join(dumps(row) + "\n" for row in rows[i : i + each])
            write_atomically(folder / "runs" / name, lines)


def say_results(results: Results, *, most: int = 20) -> None:
    """Shows the best configurations as a table on stderr."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=None, box=None, pad_edge=False)
    names = list(results.configurations[0])
    for name in ("", *names, "return (IQM)", "95 % interval", "finished", "diverged"):
        table.add_column(name.replace("_", " "), justify="right")
    rows = results.summary()
    for rank, row in enumerate(rows[:most], 1):
        interval = row["return_ci95"]
        table.add_row(
            str(rank),
            *(f"{row[name]:.4g}" for name in names),
            "dropped" if row["return_iqm"] is None else f"{row['return_iqm']:.1f}",
            "" if interval is None else "[{:.1f}, {:.1f}]".format(*interval),
            f"{row[FINISHED]}/{len(results.seeds)}",
            str(row[DIVERGED] or ""),
        )
    console = Console(stderr=True)
    console.print(table)
    if len(rows) > most:
        console.print(f"and {len(rows) - most} more, in results.csv")
