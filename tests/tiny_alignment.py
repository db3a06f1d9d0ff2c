"""Direct alignment of a tiny language model: a case of the contracts' list.

Nothing here is compiled, since the list is made wherever the tests are collected.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf.data.rows import LabelledCompletions
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
)
from rljax.rlhf.models import Transformer, TransformerConfig

TINY = TransformerConfig(
    vocab_size=6, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1,
    num_kv_heads=1, head_dim=8, max_length=5, tie_embeddings=True,
)  # fmt: skip
MODULE = Transformer(TINY)


def case():
    """KTO, which has the most parts: algorithm, hyperparameters and task."""
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 6, (12, 2, 5)), rng.integers(3, 6, (12, 2))
    rows = LabelledCompletions(
        *map(jnp.int32, (ids, lengths, np.ones((12, 2)))),
        labels=jnp.array(np.arange(12) % 2 == 0),
        reference=jnp.float32(rng.uniform(-8, -2, (12, 2))),
    )
    first = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda key, ids: MODULE.init(key, ids, method="logits"),
        jax.random.key(0),
        first,
    )
    params = jax.tree.map(
        lambda x: jnp.float32(rng.normal(size=x.shape)), shapes["params"]
    )
    config = DirectConfig(loss="kto", batch_size=8, num_microbatches=2)
    numbers = DirectHyperparams(learning_rate=1e-3)
    return direct_alignment(MODULE, config), numbers, DirectTask(rows, params)
