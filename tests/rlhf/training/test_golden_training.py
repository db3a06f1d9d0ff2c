"""TRL's losses and gradients (tests/golden/make_training.py), to rounding."""

import itertools
import json
from pathlib import Path

import pytest
from golden_training import CASES, largest_difference, our_gradient

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_trls(case):
    golden = json.loads((GOLDEN / "training" / "golden.json").read_text())
    model = GOLDEN / "pretrained" / f"llama-{CASES[case].kind}"
    loss, gradient = our_gradient(model, golden["rows"], CASES[case])
    assert abs(loss - golden["losses"][case]) < 1e-5
    file = GOLDEN / "training" / f"{case}.safetensors"
    assert largest_difference(model, gradient, file) < 1e-5


def test_the_cases_differ():
    golden = json.loads((GOLDEN / "training" / "golden.json").read_text())
    losses = sorted(golden["losses"].values())
    assert len(losses) == len(CASES)
    assert all(b - a > 1e-2 for a, b in itertools.pairwise(losses))
