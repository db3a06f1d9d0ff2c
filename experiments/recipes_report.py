"""The table of a recipe's stages, and their picture.

python experiments/recipes_report.py PICTURE.png RESULT.json ...
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rljax.report.plots import new_figure, save_figure
from rljax.training.files import write_atomically

Row = dict[str, Any]
HEAD = (
    "seed", "stage", "its figure", "before", "after", "difference [95 %]", "exact match",
    "judge", "KL to its start, nats", "seconds",
)  # fmt: skip


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the table as Markdown."""
    write_atomically(path, table(rows))


def table(rows: Sequence[Row]) -> str:
    """Returns the stages as a table, a row each; a difference that may be chance says so."""
    lines = [HEAD, ["---"] * len(HEAD), *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def gains(rows: Sequence[Row]) -> dict[str, Any]:
    """Returns of each stage in how many seeds its figure has risen for sure, and how far."""
    measured = [row for row in rows if "is_gain" in row]
    names = dict.fromkeys(row["stage"] for row in measured)
    by_stage = {n: [row for row in measured if row["stage"] == n] for n in names}
    return {
        "gained": {
            n: sum(x["is_gain"] for x in found) for n, found in by_stage.items()
        },
        "differences": {n: [x["difference"] for x in v] for n, v in by_stage.items()},
    }


def draw(path: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """Draws the share of right words after each stage, of each recipe and seed, as a PNG."""
    figure = new_figure(4 * len(tables), 3.5)
    panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for axes, (recipe, rows) in zip(panels, tables.items(), strict=True):
        found = [row for row in rows if "exact_match" in row]
        for seed in dict.fromkeys(row["seed"] for row in found):
            of_seed = [row for row in found if row["seed"] == seed]
            names = [row["stage"].replace("_", "\n") for row in of_seed]
            right = [row["exact_match"] for row in of_seed]
            axes.plot(names, right, marker="o", label=f"seed {seed}")
        axes.set_title(recipe)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("held-out words written backwards, sampled")
    panels[0].set_ylim(0.0, 1.0)
    panels[0].legend(frameon=False)
    save_figure(figure, path)


def _cells(row: Row) -> list[str]:
    change = ""
    if "difference" in row:
        low, high = row["interval"]
        change = f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        change += "" if row["is_gain"] else " not sure"
    seconds = row.get("seconds_run", 0.0) + row.get("seconds_compile", 0.0)
    return [
        str(row.get("seed", "")),
        row["stage"],
        row.get("improves", "").replace("_", " "),
        *(_number(row, name) for name in ("before", "after")),
        change,
        *(_number(row, name) for name in ("exact_match", "judge", "kl")),
        f"{seconds:.0f}",
    ]


def _number(row: Row, name: str) -> str:
    return f"{round(row[name], 3) + 0.0:.3f}" if name in row else ""  # never -0.000


if __name__ == "__main__":
    results = [json.loads(Path(name).read_text()) for name in sys.argv[2:]]
    draw(Path(sys.argv[1]), {found["recipe"]: found["table"] for found in results})
