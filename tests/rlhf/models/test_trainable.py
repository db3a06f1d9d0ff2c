import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.models import (
    Everything,
    HeadOnly,
    LastLayers,
    Lora,
    LoraOnly,
    RewardModel,
    TransformerConfig,
)
from rljax.rlhf.models.trainable import adapt, join, merge, split
from rljax.rlhf.training import reward, trained_params
from rljax.rlhf.training.start import with_drawn

scores_of = jax.jit(reward.scores_of, static_argnums=0)

TINY = TransformerConfig(
    vocab_size=16, hidden_size=8, intermediate_size=12, num_layers=3, num_heads=2,
    num_kv_heads=1, head_dim=4, max_length=8, windows=(0, 3, 0),
)  # fmt: skip
MODULE = RewardModel(TINY)
LORA = LoraOnly(Lora(rank=2, alpha=6.0, targets=("q", "down")))
CHOICES = [Everything(), LastLayers(1), LastLayers(3), LORA, HeadOnly()]
IDS = np.random.default_rng(0).integers(0, 16, (4, 8))
LENGTHS = np.array([8, 3, 1, 5])


def start(module=MODULE, seed=0):
    ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    return jax.jit(module.init)(jax.random.key(seed), *ids)["params"]


def gradient(module, params, learned, fixed):
    def loss(learned):
        params = join(learned, fixed)
        return scores_of(module, params, jnp.array(IDS), jnp.array(LENGTHS)).sum()

    return jax.jit(jax.grad(loss))(learned)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_parts_are_put_together_again_and_have_the_whole_gradient(choice):
    module = adapt(MODULE, choice)
    params = with_drawn(start(), start(module, 1))
    fixed_layers = module.config.fixed_layers
    learned, fixed = split(params, choice, fixed_layers)
    jax.tree.map(np.testing.assert_array_equal, join(learned, fixed), params)
    again = split(fixed, choice, fixed_layers)
    assert not jax.tree.leaves(again[0])
    jax.tree.map(np.testing.assert_array_equal, again[1], fixed)

    everything = dataclasses.replace(module.config, fixed_layers=0)
    whole = gradient(module.clone(config=everything), params, params, {})
    want, _ = split(whole, choice, fixed_layers)
    found = gradient(module, params, learned, fixed)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, want
    )


@pytest.mark.slow
def test_remat_changes_nothing():
    params = start()
    again = MODULE.clone(config=dataclasses.replace(TINY, remat=True))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        gradient(again, params, params, {}),
        gradient(MODULE, params, params, {}),
    )


@pytest.mark.slow
def test_low_rank_terms_begin_at_zero_and_are_merged_into_the_weights():
    module = adapt(MODULE, LORA)
    params = with_drawn(start(), start(module, 1))
    rows = jnp.array(IDS), jnp.array(LENGTHS)
    before = scores_of(MODULE, start(), *rows)
    np.testing.assert_array_equal(scores_of(module, params, *rows), before)
    layers = params["trunk"]["layers"]
    for name in ("q_lora", "down_lora"):
        b = layers[name]["b"]
        layers[name]["b"] = jax.random.normal(jax.random.key(2), b.shape)
    adapted = scores_of(module, params, *rows)
    assert abs(adapted - before).max() > 1e-3
    plain, merged = merge(module, params)
    assert plain == MODULE
    assert jax.tree.structure(merged) == jax.tree.structure(start())
    np.testing.assert_allclose(scores_of(plain, merged, *rows), adapted, rtol=1e-4)
    # The kernel itself, by hand.
    a, b = np.float64(layers["q_lora"]["a"]), np.float64(layers["q_lora"]["b"])
    want = layers["q"]["kernel"] + 3.0 * a @ b
    np.testing.assert_allclose(
        merged["trunk"]["layers"]["q"]["kernel"], want, atol=1e-6
    )


def test_the_model_that_training_has_made_is_plain():
    @dataclasses.dataclass
    class Has:
        params: dict

    module = adapt(MODULE, LORA)
    params = with_drawn(start(), start(module, 1))
    learned, fixed = split(params, LORA, 0)
    made = trained_params(MODULE, LORA, Has(learned), Has(fixed))
    jax.tree.map(np.testing.assert_array_equal, made, start())


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(ValueError, match="at most the model's 3 blocks, got 4"):
        adapt(MODULE, LastLayers(4))
    with pytest.raises(ValueError, match="at least 1 block"):
        LastLayers(0)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        Lora(rank=0)
    with pytest.raises(ValueError, match="targets must be some of"):
        Lora(targets=("query",))
