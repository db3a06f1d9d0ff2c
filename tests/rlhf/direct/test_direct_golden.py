"""TRL's losses and gradients of direct alignment (tests/golden/make_direct.py)."""

import itertools
import json
from pathlib import Path

import pytest
from golden_direct import CASES, our_gradient
from golden_training import largest_difference

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL = GOLDEN / "pretrained" / "llama-lm"


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_trls(case):
    golden = json.loads((GOLDEN / "direct" / "golden.json").read_text())
    loss, kl, gradient = our_gradient(MODEL, golden, case)
    want = golden["found"][case]
    assert abs(loss - want["loss"]) < 1e-5
    if want["kl"] is not None:
        assert abs(kl - want["kl"]) < 1e-5
    file = GOLDEN / "direct" / f"{case}.safetensors"
    assert largest_difference(MODEL, gradient, file) < 1e-5


def test_the_cases_differ():
    found = json.loads((GOLDEN / "direct" / "golden.json").read_text())["found"]
    losses = sorted(one["loss"] for one in found.values())
    assert len(losses) == len(CASES)
    assert all(b - a > 1e-2 for a, b in itertools.pairwise(losses))
    assert sorted(found[case]["kl"] > 0 for case in ("kto", "kto_reversed")) == [0, 1]
