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

from rljax.launch import check_counts, launch
from rljax.metrics import say
from rljax.run import RunError

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
    """Runs each script, and gathers its lines."""
    scripts = {
        "env_throughput": [],
        "ppo_throughput": [],
        "time_to_solve": ["--seeds", str(settings.seeds)],
        "scaling": [],
    }
    found: dict[str, Any] = {"date": datetime.date.today().isoformat()}
    for name, flags in scripts.items():
        say(f"{name}.py")
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
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    rows = found["env_throughput"]["rows"]
    kinds = {(x["system"], x.get("env", "CartPole"), x["how"]) for x in rows}
    for system, env, how in sorted(kinds):
        kind = [
            x
            for x in rows
            if (x["system"], x.get("env", "CartPole"), x["how"]) == (system, env, how)
        ]
        left.loglog(
            [x["num_envs"] for x in kind],
            [x["steps_per_second"] for x in kind],
            "o-" if system == "rljax" else "s--",
            label=f"{system}, {env}, {how}"
            if system == "rljax"
            else f"{system}, {how}",
        )
    left.set(xlabel="environments", ylabel="steps / s", title="Random policy")
    left.legend(fontsize=7)
    rows = found["scaling"]["rows"]
    for devices in sorted({x["devices"] for x in rows}):
        kind = [x for x in rows if x["devices"] == devices]
        right.loglog(
            [x["agents"] for x in kind],
            [x["steps_per_second"] for x in kind],
            "o-",
            label=f"{devices} devices",
        )
    right.set(
        xlabel="agents in one program", ylabel="steps / s, all agents", title="PPO"
    )
    right.legend()
    figure.savefig(path, dpi=110)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
