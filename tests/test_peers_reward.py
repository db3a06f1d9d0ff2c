"""What `rljax reward` writes, read by transformers."""

import json

import numpy as np
import pytest
from test_reward_command import command, made  # noqa: F401

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.peers


@pytest.mark.parametrize("train", ["all", "last", "lora"])
def test_transformers_gives_a_trained_model_the_same_scores(made, train):  # noqa: F811
    from rljax.commands.reward import reward
    from rljax.rlhf import Scorer

    out = made / f"peer_{train}"
    reward(command(made, out, train=train, last_layers=1, learning_rate=0.02))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        out / "model", dtype=torch.float32
    ).eval()
    assert type(model).__name__ == "LlamaForSequenceClassification"
    tokenizer = transformers.AutoTokenizer.from_pretrained(out / "model")
    rows = [json.loads(x) for x in (made / "train.jsonl").read_text().splitlines()]
    pairs = [(r["prompt"], r[side]) for r in rows for side in ("chosen", "rejected")]
    ours = Scorer.load(out / "model").score(pairs)
    end = tokenizer.eos_token or ""
    with torch.no_grad():
        theirs = [
            model(**tokenizer(a + b + end, return_tensors="pt")).logits[0, 0].item()
            for a, b in pairs
        ]
    unit = max(1.0, float(np.std(theirs)))
    assert np.std(theirs) > 0.01
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * unit)
