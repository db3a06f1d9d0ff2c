"""Losses and gradients of direct alignment beside TRL: `make test-peers`."""

from pathlib import Path

import pytest
from golden_direct import CASES, our_gradient
from golden_training import largest_difference

pytest.importorskip("torch")  # not in every peer's environment
from golden.make_direct import SCALE, draw_rows, losses_and_gradient

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore::FutureWarning")]

MODELS = Path(__file__).parent / "golden" / "pretrained"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_transformers_direct_losses_and_gradients_are_ours(family, case, tmp_path):
    from safetensors.numpy import save_file

    folder = MODELS / f"{family}-lm"
    rows = draw_rows()
    want, gradient = losses_and_gradient(folder, rows, case)
    save_file(gradient, tmp_path / "gradient.safetensors", {"format": "pt"})
    golden = {"rows": rows, "scale": SCALE}
    loss, kl, ours = our_gradient(folder, golden, case)
    assert abs(loss - want["loss"]) < 1e-5
    assert want["kl"] is None or abs(kl - want["kl"]) < 1e-5
    assert largest_difference(folder, ours, tmp_path / "gradient.safetensors") < 1e-5
