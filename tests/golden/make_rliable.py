"""Makes rliable.json: what rliable says of a few scores.

pip install rliable "pandas<3" && python tests/golden/make_rliable.py
"""

import json
from pathlib import Path

import numpy as np
from rliable import library, metrics

SIZES = {"ten": (10, 1), "sixteen": (16, 1), "tasks": (10, 4)}
NUM_RESAMPLES = 50_000


def main():
    generator = np.random.default_rng(0)
    cases = {}
    for name, size in SIZES.items():
        scores = generator.gamma(2.0, 100.0, size)
        scores[0, 0] = 5000.0
        if name == "tasks":
            scores *= np.array([1, 3, 10, 30])
        iqm, interval = library.get_interval_estimates(
            {name: scores},
            lambda x: np.array([metrics.aggregate_iqm(x)]),
            reps=NUM_RESAMPLES,
            random_state=np.random.RandomState(0),
        )
        cases[name] = {
            "scores": scores.round(6).tolist(),
            "iqm": float(iqm[name][0]),
            "interval": interval[name].ravel().tolist(),
        }
    x, y = (generator.integers(0, 10, size).astype(float) for size in (12, 9))
    pair = {"x": x.tolist(), "y": y.tolist()}
    pair["probability"] = float(
        metrics.probability_of_improvement(x[:, None], y[:, None])
    )
    _, interval = library.get_interval_estimates(
        {"x,y": (x[:, None], y[:, None])},
        metrics.probability_of_improvement,
        reps=2_000,
        random_state=np.random.RandomState(0),
    )
    pair["interval"] = interval["x,y"].ravel().tolist()
    found = {"cases": cases, "pair": pair}
    Path(__file__).with_name("rliable.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
