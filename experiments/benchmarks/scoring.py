"""Times the scoring of texts of several length mixes, beside transformers.

    make peers
    python experiments/benchmarks/scoring.py

Same weights, same texts, float32, tokenizing included, all cores. transformers runs in an
environment of its own, in batches of 32, in arrival order and sorted by length. Padding does
not count as tokens. Our first pass, over other texts, compiles; the second is compared. The
last line is our speed over theirs. Half an hour on two cores.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peaks import matrix_peak
from scoring_problem import MIXES, count_flops, make_texts, write_model

from rljax.commands.launch import check_counts, check_seed, launch
from rljax.rlhf import Scorer
from rljax.training.files import RunError, dumps
from rljax.training.manifest import device

ROOT = Path(__file__).parent.parent.parent
PEER = "scoring_transformers.py"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """What the command line can change."""

    mixes: tuple[str, ...] = tuple(MIXES)
    """Which length mixes."""
    num_texts: int = 2000
    """Texts of each mix."""
    seed: int = 0
    """Draws weights and texts."""
    peer: Path = ROOT / ".peers" / "transformers" / "bin" / "python"
    """The Python that has transformers and torch."""

    def __post_init__(self):
        check_seed(self.seed)
        check_counts(self, "num_texts")
        if unknown := set(self.mixes) - set(MIXES):
            raise ValueError(
                f"mixes must be of {', '.join(MIXES)}, got {', '.join(unknown)}."
            )


def measure_ours(folder: Path) -> dict[str, Any]:
    """Scores other texts, which compiles what is needed, and then the texts."""
    scorer = Scorer.load(folder)
    texts, others = (json.loads((folder / f"{i}.json").read_text()) for i in range(2))
    started = time.perf_counter()
    first = scorer.detail(others)
    later = time.perf_counter()
    detail = scorer.detail(texts)
    return {
        "system": "rljax",
        "seconds": time.perf_counter() - later,
        "seconds_first_pass": later - started,
        "seconds_compile": first.seconds_compile + detail.seconds_compile,
        "compile_count": first.compile_count,
        "compile_count_second_pass": detail.compile_count,
        "padding_share": detail.padding_share,
        "scores": detail.scores,
        "num_tokens": detail.num_tokens,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measure_peer(python: Path, folder: Path) -> list[dict[str, Any]]:
    """Scores the same texts with transformers, in two orders."""
    command = [str(python), str(Path(__file__).with_name(PEER)), str(folder), "0.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{PEER} failed:\n{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def main(settings: Benchmark) -> dict[str, Any]:
    """Prints a line for each mix and system, and returns the ratios."""
    if not settings.peer.exists():
        raise RunError(f"{settings.peer} is missing. Make it: make peers")
    peak = matrix_peak()
    ratios: dict[str, Any] = {}
    rng = np.random.default_rng(settings.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, settings.seed)
        for mix in settings.mixes:
            for i in range(2):
                texts = make_texts(mix, settings.num_texts, rng)
                (folder / f"{i}.json").write_text(dumps(texts))
            with concurrent.futures.ProcessPoolExecutor(  # so that memory is its own
                1, mp_context=multiprocessing.get_context("spawn")
            ) as process:
                ours = process.submit(measure_ours, folder).result()
            num_tokens, scores = ours.pop("num_tokens"), ours["scores"]
            ratios[mix] = {}
            for row in (ours, *measure_peer(settings.peer, folder)):
                row["largest_difference"] = np.abs(row.pop("scores") - scores).max()
                row["tokens_per_second"] = num_tokens.sum() / row["seconds"]
                row["share_of_peak"] = count_flops(num_tokens) / row["seconds"] / peak
                print(dumps({"mix": mix} | row), flush=True)
                ratios[mix][row["system"]] = row["seconds"] / ours["seconds"]
            ratios[mix].pop("rljax")
    return {"device": device(), "peak_gflops": peak / 1e9, "ratios": ratios}


if __name__ == "__main__":
    launch(main, Benchmark, __doc__)
