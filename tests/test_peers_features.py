"""Hidden states after each block beside transformers: `make test-peers`."""

import numpy as np
import pytest

from rljax.rlhf.frozen.features import frozen_features
from rljax.rlhf.pretrained import load_language_model

torch = pytest.importorskip("torch")  # not in every peer's environment

pytestmark = pytest.mark.peers

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_transformers_hidden_states_are_the_features(family, pooling, tmp_path):
    import transformers

    torch.manual_seed(0)
    options = {"sliding_window": 4, "head_dim": 8} if family == "Gemma2" else {}
    config = getattr(transformers, f"{family}Config")(**SHAPE, **options)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3).add_(0.05 * torch.randn_like(weight))
    model.save_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    lengths = np.array([1, 5, 17, 32])
    ids = rng.integers(3, 64, (4, 32))
    found = frozen_features(
        *load_language_model(tmp_path), ids, lengths, pooling=pooling
    )
    for row, length in enumerate(lengths):
        with torch.no_grad():
            tokens = torch.tensor(ids[row : row + 1, :length])
            states = model.model(tokens, output_hidden_states=True).hidden_states
            # After the embedding, two blocks, and the last block with its norm.
            pooled = [s[0, -1] if pooling == "last" else s[0].mean(0) for s in states]
            expected = [model.model.norm(state) for state in pooled[1:3]]
        expected += [pooled[3]] * (pooling == "last")
        for k, state in enumerate(expected):
            np.testing.assert_allclose(found[k, row], state, rtol=0, atol=2e-4)
