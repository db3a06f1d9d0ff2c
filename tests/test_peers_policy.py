"""Policy losses and gradients beside TRL's trainers: `make test-peers`."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_policy import CASES, our_gradient
from golden_training import largest_difference

pytest.importorskip("torch")  # not in every peer's environment
from golden.make_policy import CASES as OPTIONS
from golden.make_policy import draw_rows, policy_gradient

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = ("llama", "qwen3", "gemma2", "gpt2")


@pytest.mark.parametrize("case", ["grpo", "gspo", "rloo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_policies_learn_as_ours(family, case, tmp_path):
    from safetensors.numpy import save_file

    folder = GOLDEN / "pretrained" / f"{family}-lm"
    rows = draw_rows()
    if family == "gpt2":
        # There, prompts padded on the left get other positions than without padding.
        rows["prompts"] = [rows["prompts"][0]] * len(rows["prompts"])
    want, gradient = policy_gradient(folder, rows, OPTIONS[case])
    save_file(gradient, tmp_path / "gradient.safetensors", {"format": "pt"})
    given = rows, want["old"], want["reference"]
    advantages, loss, ours = our_gradient(folder, *given, case)
    np.testing.assert_allclose(advantages, want["advantages"], atol=1e-5)
    assert abs(loss - want["loss"]) < 1e-5
    assert largest_difference(folder, ours, tmp_path / "gradient.safetensors") < 1e-5


def test_transformers_losses_are_what_was_recorded():
    recorded = json.loads((GOLDEN / "policy" / "golden.json").read_text())
    assert recorded["cases"] == json.loads(json.dumps(OPTIONS))
    assert set(OPTIONS) == set(CASES)
    want, _ = policy_gradient(
        GOLDEN / "pretrained" / "llama-lm", draw_rows(), OPTIONS["dapo"]
    )
    assert want["loss"] == pytest.approx(recorded["found"]["dapo"]["loss"], abs=1e-6)
