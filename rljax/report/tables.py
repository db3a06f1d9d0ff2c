"""A sweep's results as a table in the terminal."""

import math
from collections.abc import Callable
from typing import Any

from rljax.numerics.processes import is_main
from rljax.sweeps.results import DIVERGED, DROPPED, FINISHED, Results, value_text


def say_results(results: Results, *, most: int = 20) -> None:
    """Shows the best configurations as a table on stderr, in the first process."""
    from rich.console import Console

    if not is_main():
        return
    console, rows = Console(stderr=True), results.summary()
    table = _table(results, rows[:most], together=False)
    wide = console.options.update(max_width=10_000)
    if console.measure(table, options=wide).maximum > console.width:
        table = _table(results, rows[:most], together=True)
    console.print(table)
    if len(rows) > most:
        console.print(f"and {len(rows) - most} more, in results.csv")


def _table(results: Results, rows: list[dict[str, Any]], *, together: bool) -> Any:
    """The rows as a table, a column for a whole configuration or for each value."""
    from rich.table import Table

    # As narrow as it can be, for terminals of 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    names = list(results.configurations[0])
    early = any(row["env_steps"] < results.env_steps[row["index"], -1] for row in rows)
    table.add_column(justify="right", no_wrap=True)
    if together:
        table.add_column("configuration")
    heads = [] if together else [name.replace("_", "\n") for name in names]
    heads += ["return\n(IQM)", "95 %\ninterval", "P(1st is\nbetter)"]
    for name in [*heads, *(["steps"] if early else []), FINISHED, DIVERGED]:
        table.add_column(name, justify="right", no_wrap=True)
    score = _score_format(rows)
    for rank, row in enumerate(rows, 1):
        interval, better = row["return_ci95"], row["first_better"]
        nothing = DROPPED if row[DROPPED] else DIVERGED
        table.add_row(
            str(rank),
            *([row["label"]] if together else [value_text(row[n]) for n in names]),
            nothing if row["return_iqm"] is None else score(row["return_iqm"]),
            "" if interval is None else f"[{', '.join(map(score, interval))}]",
            "" if better is None else f"{better.probability:.2f}",
            *([f"{row['env_steps']:,}"] if early else []),
            f"{row[FINISHED]}/{len(results.seeds)}",
            str(row[DIVERGED] or ""),
        )
    return table


def _score_format(rows: list[dict[str, Any]]) -> Callable[[float], str]:
    """Formats returns with four digits of the largest, so that they can be compared."""
    ends = [end for row in rows for end in row["return_ci95"] or ()]
    known = [row["return_iqm"] for row in rows if row["return_iqm"] is not None] + ends
    size = math.floor(math.log10(max(map(abs, known), default=0) or 1))
    if not -4 <= size <= 6:
        return lambda score: f"{score:.4g}"
    return lambda score: f"{score:.{max(3 - size, 0)}f}"
