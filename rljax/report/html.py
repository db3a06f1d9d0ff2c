"""The report of a sweep: curves, a table and replays in a page that needs nothing else."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.files import write_atomically
from rljax.report.replay import Replay, filled, table
from rljax.report.results import DIVERGED, DROPPED, FINISHED, Results
from rljax.report.statistics import bootstrap_interval, interquartile_mean

_NUM_RESAMPLES = 500  # for a band; the intervals of the table take more


def save_report(
    path: Path,
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
        results: the sweep's. Runs that diverged are marked, and are in no mean.
        title: what was swept.
        command: what was typed to run it.
        versions: by package.
        replays: one panel each, under a common clock: the best run's, the worst's.
        frames_per_second: steps per second at speed 1.
        target: a return to mark with a line.
        ylabel: what the returns are.

    Raises:
        ValueError: there is nothing to report, the target is not finite, or replays are
            given no speed.
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
        "env_steps": results.env_steps,
        "rows": _rows(results),
        "target": target,
        "ylabel": ylabel,
        "command": command,
        "versions": list(versions.items()),
        "player": table(replays, frames_per_second) if replays else None,
    }
    write_atomically(path, filled("sweep.html", title, data))


def _rows(results: Results) -> list[dict[str, Any]]:
    """One row a configuration, the best first: its place in the table and its curve.

    A curve has a mean and an interval at each evaluation, None where there is none, and
    the evaluation and the return that each diverged run was last seen at.
    """
    rows = []
    for rank, row in enumerate(results.summary(), 1):
        runs, status = results.returns[row["index"]], results.status[row["index"]]
        sound = [x[np.isfinite(x)] for x in runs[status != DIVERGED].T]
        bands = [bootstrap_interval(x, num_resamples=_NUM_RESAMPLES) for x in sound]
        lost = [np.flatnonzero(np.isfinite(x)) for x in runs[status == DIVERGED]]
        rows.append(
            {
                "rank": rank,
                "label": row["label"],
                "values": list(results.configurations[row["index"]].values()),
                "iqm": row["return_iqm"],
                "interval": row["return_ci95"],
                **{name: row[name] for name in (FINISHED, DIVERGED, DROPPED)},
                "means": [_short(interquartile_mean(x)) if len(x) else None for x in sound],
                "bands": [None if band is None else [_short(x) for x in band] for band in bands],
                "lost": [
                    [seen[-1], _short(run[seen[-1]])]
                    for seen, run in zip(lost, runs[status == DIVERGED], strict=True)
                    if len(seen)
                ],
            }
        )  # fmt: skip
    return rows


def _short(x: float) -> float:
    """As many digits as a chart can show; 256 curves are to stay small."""
    return float(f"{x:.5g}")
