"""The report of a sweep: curves, a table and replays in one self-contained HTML page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.numerics.statistics import bootstrap_interval, interquartile_mean
from rljax.report.replay import Replay, fill_template, player_data
from rljax.sweeps.results import DIVERGED, DROPPED, FINISHED, Results
from rljax.training.files import write_atomically

_NUM_RESAMPLES = 500  # for the bands of curves; intervals in the table use more


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
    ylabel: str = "return",
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
        ylabel: axis label of the returns.

    Raises:
        ValueError: there are no returns, the target is not finite, or the replays'
            speed is not positive and finite.
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
        "target": target,
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
                "better": better and list(map(_short, better)),
                "steps": results.env_steps[index],
                "taken": row["env_steps"],
                "means": list(map(_short, means)),
                "bands": [ends and list(map(_short, ends)) for ends in bands],
                "lost": [[i, _short(x[i])] for i, x in zip(last, seen, strict=True)],
            }
        )
    return rows


def _short(x: float) -> float:
    """Rounds to five digits, so that 256 curves stay a small page."""
    return float(f"{x:.5g}")
