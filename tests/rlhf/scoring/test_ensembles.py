"""An ensemble's members score as they do alone, whichever of their leaves they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rlhf.data.encoding import EncodingConfig, encode_pairs
from rljax.rlhf.data.tokenizer import ByteTokenizer
from rljax.rlhf.models import LoraOnly, RewardModel, TransformerConfig, stack_ensemble
from rljax.rlhf.models.trainable import adapt, join, split
from rljax.rlhf.pretrained import load_reward_model, save
from rljax.rlhf.scoring import Scorer
from rljax.rlhf.scoring.ensembles import scores_and_members

CONFIG = TransformerConfig(
    vocab_size=258,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_length=24,
)
ENCODING = EncodingConfig(max_length=24, end_ids=(257,))
PAIRS = [("a" * i, "b" * (1 + i % 5)) for i in range(12)]
ROW = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)


def scorer(module, variables, **options):
    return Scorer(module, variables, ByteTokenizer(), ENCODING, **options)


@functools.cache
def low_rank_members():
    """A module with low-rank terms, three members' variables, and those of them all."""
    module = adapt(RewardModel(CONFIG), LoraOnly())
    members = []
    for i in range(3):
        params = jax.jit(module.init)(jax.random.key(i), *ROW)["params"]
        moved = jax.tree.map(lambda leaf: leaf + 0.05, params)  # B is 0 as drawn
        members.append(split(moved, LoraOnly(), 0))
    fixed = members[0][1]
    scale = [{"mean": jnp.float32(i), "std": jnp.float32(1 + i)} for i in range(3)]
    each = [
        {"params": join(learned, fixed), "scale": one}
        for (learned, _), one in zip(members, scale, strict=True)
    ]
    learned = stack_ensemble([learned for learned, _ in members])
    shared = {"params": join(learned, fixed), "scale": stack_ensemble(scale)}
    return module, each, shared


@functools.cache
def scores_alone():
    """`[12, 3]`, of the rows that the pairs are, by each member's variables."""
    module, each, _ = low_rank_members()
    rows = encode_pairs(ByteTokenizer(), PAIRS, ENCODING)
    lengths = np.array([len(row.ids) for row in rows], np.int32)
    ids = np.zeros((12, 24), np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = row.ids
    apply = jax.jit(module.apply)
    return np.stack([apply(variables, ids, lengths) for variables in each], axis=1)


@pytest.mark.some_cases(1)
@pytest.mark.parametrize("stacked", ["some", "all", "some, on two devices"])
def test_members_score_as_they_do_alone(stacked):
    module, each, variables = low_rank_members()
    embedding = variables["params"]["trunk"]["embed"]["embedding"]
    assert embedding.shape == (258, 16)  # once for all
    if stacked == "all":
        variables = stack_ensemble(each)
    devices = jax.devices()[: 1 + ("two" in stacked)]
    detail = scorer(module, variables, devices=devices).detail(PAIRS)
    assert detail.members.dtype == np.float32
    np.testing.assert_allclose(detail.members, scores_alone(), atol=1e-5)
    np.testing.assert_allclose(detail.scores, detail.members.mean(axis=1), atol=1e-6)
    assert detail.members.std(axis=1).min() > 0.01


@pytest.mark.slow
def test_a_single_model_has_no_members():
    module, each, _ = low_rank_members()
    detail = scorer(module, each[1]).detail(PAIRS)
    assert detail.members is None
    np.testing.assert_allclose(detail.scores, scores_alone()[:, 1], atol=1e-5)


def test_streamed_rows_have_their_members_and_errors_have_none():
    module, _, shared = low_rank_members()
    windows = [("w", [*PAIRS[:2], ("p", "")])]
    ((_, rows, _),) = scorer(module, shared).stream(windows)
    for row in rows[:2]:
        assert len(row.members) == 3
        assert row.score == pytest.approx(np.mean(row.members), abs=1e-6)
    assert rows[2].error
    assert rows[2].members == ()
    assert scorer(module, shared).detail([]).members.shape == (0, 3)


def test_what_members_share_is_computed_once():
    module = RewardModel(CONFIG)
    variables = jax.jit(module.init)(jax.random.key(0), *ROW)
    kernel = variables["params"]["head"]["kernel"]
    heads = {"kernel": jnp.stack([kernel] * 64)}
    shared = variables | {"params": variables["params"] | {"head": heads}}

    def flops(variables):
        _, scores = scores_and_members(module, variables)
        rows = jnp.zeros((4, 24), jnp.int32), jnp.full(4, 24)
        program = jax.jit(scores).lower(variables, *rows).compile()
        return program.cost_analysis()["flops"]

    assert flops(shared) < 1.1 * flops(variables)


def test_leaves_of_unequally_many_members_are_refused():
    module = RewardModel(CONFIG)
    variables = jax.jit(module.init)(jax.random.key(0), *ROW)
    stacked = {"mean": jnp.zeros(3), "std": jnp.ones(2)}
    with pytest.raises(ValueError, match="as many members"):
        scorer(module, variables | {"scale": stacked})


def test_members_that_share_a_trunk_are_saved_and_read_back(tmp_path):
    module = RewardModel(CONFIG)
    variables = jax.jit(module.init)(jax.random.key(0), *ROW)
    kernel = variables["params"]["head"]["kernel"]
    heads = {"kernel": jnp.stack([kernel, -kernel])}
    scale = {"mean": jnp.zeros(2), "std": jnp.ones(2)}
    shared = {
        "params": variables["params"] | {"head": heads},
        "scale": scale,
    }
    save(tmp_path, module, shared)
    again, read = load_reward_model(tmp_path)
    assert again == module
    jax.tree.map(np.testing.assert_array_equal, read, shared)
