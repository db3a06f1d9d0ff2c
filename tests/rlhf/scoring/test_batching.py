"""Plans of batches are functions of lengths alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rljax.rlhf.row_files.batching import buckets, plan_batches

GRIDS = [buckets(100, density) for density in (8, 4, 2, 1)]


def batch_size(length):
    return max(1, 128 // length)


@given(st.lists(st.integers(1, 100), max_size=60), st.floats(0, 1000))
def test_every_row_is_in_one_batch_that_is_long_enough(lengths, compile_tokens):
    lengths = np.array(lengths, np.int32)
    batches = plan_batches(lengths, GRIDS, batch_size, compile_tokens)
    rows = np.concatenate([np.zeros(0, int), *(batch.rows for batch in batches)])
    np.testing.assert_array_equal(rows, np.argsort(-lengths, kind="stable"))
    assert any({batch.length for batch in batches} <= set(grid) for grid in GRIDS)
    for i, batch in enumerate(batches):
        assert batch.length >= lengths[batch.rows].max()
        assert batch.size == batch_size(batch.length)
        assert len(batch.rows) == batch.size or i == len(batches) - 1


@pytest.mark.parametrize(
    ("compile_tokens", "expected"), [(0.0, [64, 56, 48, 40]), (1e6, [64] * 4)]
)
def test_dear_compiling_means_fewer_lengths(compile_tokens, expected):
    lengths = np.array([33, 41, 49, 57])
    plan = plan_batches(lengths, GRIDS, lambda _: 1, compile_tokens)
    assert [batch.length for batch in plan] == expected
