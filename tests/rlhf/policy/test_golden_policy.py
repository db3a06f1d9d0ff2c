"""TRL's advantages, losses and gradients (tests/golden/make_policy.py), to rounding."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from golden_policy import CASES, our_gradient
from golden_training import largest_difference

GOLDEN = Path(__file__).parents[2] / "golden"
MODEL = GOLDEN / "pretrained" / "llama-lm"
RECORDED = json.loads((GOLDEN / "policy" / "golden.json").read_text())


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("case", CASES)
def test_advantages_losses_and_gradients_are_trls(case):
    want = RECORDED["found"][case]
    given = RECORDED["rows"], want["old"], want["reference"]
    advantages, loss, gradient = our_gradient(MODEL, *given, case)
    np.testing.assert_allclose(advantages, want["advantages"], atol=1e-5)
    assert abs(loss - want["loss"]) < 1e-5
    file = GOLDEN / "policy" / f"{case}.safetensors"
    assert largest_difference(MODEL, gradient, file) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_and_so_they_are_in_four_microbatches(case):
    want = RECORDED["found"][case]
    given = RECORDED["rows"], want["old"], want["reference"]
    _, loss, gradient = our_gradient(MODEL, *given, case, num_microbatches=4)
    assert abs(loss - want["loss"]) < 1e-5
    file = GOLDEN / "policy" / f"{case}.safetensors"
    assert largest_difference(MODEL, gradient, file) < 1e-5


def test_the_cases_differ():
    losses = sorted(found["loss"] for found in RECORDED["found"].values())
    assert len(losses) == len(CASES)
    assert all(b - a > 1e-4 for a, b in itertools.pairwise(losses))
