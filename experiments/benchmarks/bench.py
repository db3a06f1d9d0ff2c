"""Runs all benchmarks of control, and writes what they say as JSON and as a page.

    make bench                                          # three seeds, under ten minutes
    python experiments/benchmarks/bench.py --seeds 10   # what the README has

In `--out`: `bench.json`, `bench.md` and `scaling.png`, steps/s over environments and agents.
"""

import dataclasses
import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rljax.commands.launch import check_counts, launch
from rljax.training.files import RunError
from rljax.training.loggers import log_line

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    seeds: int = 3
    """Processes of each system in time_to_solve.py."""
    out: Path = HERE.parent / "results"
    """Where the files go."""

    def __post_init__(self):
        check_counts(self, "seeds")


def main(settings: Benchmark) -> dict[str, Any]:
    """Runs each script, and gathers rows lines."""
    scripts = {
        "env_throughput": ["--seconds", "0.8"],
        "ppo_throughput": [],
        "time_to_solve": ["--seeds", str(settings.seeds)],
        "scaling": ["--num-updates", "10"],
    }
    found: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    for name, flags in scripts.items():
        log_line(f"{name}.py")
        command = [sys.executable, str(HERE / f"{name}.py"), *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RunError(f"{name}.py failed; see above.")
        *rows, last = (json.loads(line) for line in done.stdout.splitlines())
        found[name] = {"rows": rows, **last}
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
    (settings.out / "bench.md").write_text(page(found))
    draw(found, settings.out / "scaling.png")
    return {name: found[name].get("ratios", {}) for name in scripts}


def page(found: dict[str, Any]) -> str:
    """The ratios and the rows, as Markdown."""
    lines = [f"# Benchmarks of {found['date']}", ""]
    for name, part in found.items():
        if name == "date":
            continue
        lines += [f"## {name}.py, {part['device']}", ""]
        if "ratios" in part:
            lines += ["```", json.dumps(part["ratios"], indent=1), "```", ""]
        columns = list(dict.fromkeys(key for row in part["rows"] for key in row))
        lines += [
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            *(
                "| " + " | ".join(_cell(row.get(key, "")) for key in columns) + " |"
                for row in part["rows"]
            ),
            "",
        ]
    return "\n".join(lines)


def draw(found: dict[str, Any], path: Path) -> None:
    """Steps/s over environments and over agents, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    speeds: dict[tuple[str, str], dict[int, float]] = {}
    for row in found["env_throughput"]["rows"]:
        kind = row["system"], row.get("env") or "CartPole"
        best = speeds.setdefault(kind, {})
        num_envs, speed = row["num_envs"], row["steps_per_second"]
        best[num_envs] = max(best.get(num_envs, 0.0), speed)
    for (system, env), best in speeds.items():
        style = "o-" if system == "rljax" else "s--"
        left.loglog(list(best), list(best.values()), style, label=f"{system}, {env}")
    left.set(xlabel="environments", ylabel="steps/s", title="Random policy, all cores")
    for devices in sorted({row["devices"] for row in found["scaling"]["rows"]}):
        rows = [row for row in found["scaling"]["rows"] if row["devices"] == devices]
        agents, speed = zip(
            *((x["agents"], x["steps_per_second"]) for x in rows), strict=True
        )
        right.loglog(agents, speed, "o-", label=f"CPU devices: {devices}")
    right.set(xlabel="agents in one program", ylabel="steps/s of all agents")
    right.set(title="PPO, 4 environments an agent", ylim=(1e4, 1e6))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    figure.savefig(path)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
