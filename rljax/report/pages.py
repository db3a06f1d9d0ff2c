"""The report of a sweep: curves, a table and replays in one self-contained HTML page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.numerics.statistics import bootstrap_interval, interquartile_mean
from rljax.numerics.validation import check_name
from rljax.report.replay import Replay, fill_template, player_data
from rljax.sweeps.results import DIVERGED, DROPPED, FINISHED, Results
from rljax.training.files import write_atomically

_NUM_RESAMPLES = 500  # for the bands of curves; intervals in the table use more


@dataclasses.dataclass(frozen=True, kw_only=True)
class TradeOff:
    """A chart of one training metric over another: a point for each finished run.

    A point is of means since the evaluation before the run's end. By default it is what
    policy optimization trades: reward for divergence.

    Attributes:
        x: the metric along the horizontal axis.
        y: the one along the vertical axis.
        xlabel: label of the axis, with its unit.
        ylabel: likewise.
        line: `[L, 2]`, points (x, y) of a line to compare with; () for none.
        goals: `[C, 2]`, where each configuration would be at its best; () if unknown.
        line_label: what the line is, and the goals on it.
    """

    x: str = "kl"
    y: str = "reward"
    xlabel: str = "KL(policy, reference) in nats per completion"
    ylabel: str = "mean reward of a completion"
    line: Sequence[tuple[float, float]] = ()
    goals: Sequence[tuple[float, float]] = ()
    line_label: str = "the best there can be"


def save_report(
    path: Path | str,
    results: Results,
    *,
    title: str,
    command: str,
    versions: Mapping[str, str],
    replays: Sequence[Replay] = (),
    frames_per_second: float = 50.0,
    target: float | None = None,
    xlabel: str = "environment steps of one run",
    ylabel: str = "return",
    trade_off: TradeOff | None = None,
) -> None:
    """Writes a sweep's learning curves, table and replays as one page.

    Args:
        path: where to write it.
        results: of a sweep; runs that diverged are marked and left out of means.
        title: of the page.
        command: the command line that ran it.
        versions: of packages, by name.
        replays: one panel each, under a common clock.
        frames_per_second: steps per second of the replays at speed 1.
        target: a return to mark with a line.
        xlabel: axis label of the steps, or of what else a sweep counts.
        ylabel: axis label of the returns.
        trade_off: a second chart, of two of training's metrics.

    Raises:
        ValueError: there are no returns, the target is not finite, the replays' speed is
            not positive and finite, or the trade-off does not fit the results.
    """
    if not results.returns.size:
        raise ValueError(
            f"a report needs a configuration, a seed and an evaluation or more, got "
            f"returns of shape {results.returns.shape}. Run the sweep first."
        )
    if target is not None and not math.isfinite(target):
        raise ValueError(
            f"target must be a finite return, got {target}. Leave it out for no line."
        )
    data = {
        "names": list(results.configurations[0]),
        "num_seeds": len(results.seeds),
        "rows": _rows(results),
        "trade_off": trade_off and trade_off_data(trade_off, results),
        "target": target,
        "xlabel": xlabel,
        "ylabel": ylabel,
        "command": command,
        "versions": list(versions.items()),
        "player": player_data(replays, frames_per_second) if replays else None,
    }
    write_atomically(path, fill_template("sweep.html", title, data))


def _rows(results: Results) -> list[dict[str, Any]]:
    """Table row and learning curve of each configuration, the best first.

    At each evaluation: environment steps of a run, and mean and interval over runs that
    did not diverge, or None. Of each run that diverged: the last evaluation and return.
    """
    rows = []
    for rank, row in enumerate(results.summary(), 1):
        index = row["index"]
        lost = results.status[index] == DIVERGED
        columns = results.columns(index)
        means = [interquartile_mean(x) if len(x) else math.nan for x in columns]
        bands = [bootstrap_interval(x, num_resamples=_NUM_RESAMPLES) for x in columns]
        seen = [x for x in results.returns[index][lost] if np.isfinite(x).any()]
        last = [int(np.flatnonzero(np.isfinite(x))[-1]) for x in seen]
        first = row["first_better"]
        better = first and [first.probability, *(first.interval or ())]
        rows.append(
            {name: row[name] for name in ("label", FINISHED, DIVERGED, DROPPED)}
            | {
                "rank": rank,
                "values": [
                    str(x) if isinstance(x, float) and math.isinf(x) else x
                    for x in results.configurations[index].values()
                ],  # JSON has no infinity
                "iqm": row["return_iqm"],
                "interval": row["return_ci95"],
                "better": better and list(map(short, better)),
                "steps": results.env_steps[index],
                "taken": row["env_steps"],
                "means": list(map(short, means)),
                "bands": [ends and list(map(short, ends)) for ends in bands],
                "lost": [[i, short(x[i])] for i, x in zip(last, seen, strict=True)],
            }
        )
    return rows


def trade_off_data(chart: TradeOff, results: Results) -> dict[str, Any]:
    """Returns the data of `web/trade_off.js`: labels, line, and the ends of runs.

    Of each configuration, the best first, of each finished run: its seed, x and y.

    Raises:
        ValueError: the trade-off does not fit the results.
    """
    for name in (chart.x, chart.y):
        check_name(name, list(results.metrics), "the sweep's training")
    line, goals = (
        np.asarray(x, float).reshape(-1, 2) for x in (chart.line, chart.goals)
    )
    if not np.isfinite(line).all() or not np.isfinite(goals).all():
        raise ValueError(
            "a trade-off's line and goals must be finite. Leave out others."
        )
    if len(goals) not in (0, len(results.configurations)):
        raise ValueError(
            f"a trade-off's goals must be one for each of "
            f"{len(results.configurations)} configurations, got {len(goals)}."
        )
    ends = []
    for index in results.ranking():
        last = results.reached[index]
        x, y = (results.metrics[name][index, :, last] for name in (chart.x, chart.y))
        kept = np.isfinite(x + y) & (results.status[index] == FINISHED)
        runs = zip(results.seeds, x, y, kept, strict=True)
        ends.append([[s, short(x), short(y)] for s, x, y, keep in runs if keep])
    return {
        "xlabel": chart.xlabel,
        "ylabel": chart.ylabel,
        "line": line,
        "line_label": chart.line_label,
        "goals": goals[results.ranking()] if len(goals) else [],
        "ends": ends,
    }


def short(x: float) -> float:
    """Returns a number of five digits, so that 256 curves stay a small page."""
    return float(f"{x:.5g}")
