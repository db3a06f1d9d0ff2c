"""Our losses and gradients in the cases of tests/golden/make_direct.py."""

import jax
import jax.numpy as jnp
import numpy as np
from golden_training import first_update, is_adam, padded

from rljax.rlhf.data import TokenPair, encoding_config, tokenize_labelled
from rljax.rlhf.data.labelled import Labelled
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.data.tokenizer import ByteTokenizer
from rljax.rlhf.direct import (
    DirectConfig,
    DirectHyperparams,
    DirectTask,
    direct_alignment,
    with_reference,
)
from rljax.rlhf.pretrained import load_language_model

SIZES = {"batch_size": 8, "num_microbatches": 2}
CASES = {
    "dpo": {"beta": 0.3},
    "robust_dpo": {"beta": 0.3, "label_smoothing": 0.2},
    "hinge": {"beta": 0.3},
    "ipo_mean": {"beta": 0.3},
    "kto": {"beta": 0.3, "desirable_weight": 1.5, "undesirable_weight": 0.8},
    "kto_reversed": {"beta": 0.3},
}


def our_gradient(folder, golden, case):
    """The loss, the distance or None, and the gradient, of a first update in two parts."""
    module, variables = load_language_model(folder)
    policy = variables["params"]
    other = jax.tree.map(lambda x: golden["scale"] * x, policy)
    if case == "kto_reversed":
        policy, other = other, policy
    loss = "kto" if case.startswith("kto") else case
    rows = labelled(golden["rows"]) if loss == "kto" else pairs(golden["rows"])
    task = DirectTask(with_reference(module, other, rows), policy)
    numbers = DirectHyperparams(max_grad_norm=np.inf, **CASES[case])
    algorithm = direct_alignment(module, DirectConfig(loss=loss, **SIZES))
    state, metrics = first_update(algorithm)(numbers, task)
    (adam,) = filter(is_adam, jax.tree.leaves(state.opt_state, is_leaf=is_adam))
    gradient = jax.tree.map(lambda mean: mean / (1 - 0.9), adam.mu)  # Adam's first mean
    kl = float(metrics["kl"].value) if loss == "kto" else None
    return float(metrics["loss"].value), kl, gradient


def pairs(rows):
    texts = [
        prompt + completion
        for both in zip(rows["prompts"], rows["chosen"], rows["rejected"], strict=True)
        for prompt, completion in ((both[0], both[1]), (both[0], both[2]))
    ]
    ids, lengths = padded(texts)
    starts = np.array([[len(prompt)] * 2 for prompt in rows["prompts"]])
    return Rankings.of(ids.reshape(8, 2, -1), lengths.reshape(8, 2), starts=starts)


def labelled(rows):
    records = [
        Labelled(TokenPair(prompt, completion), label)
        for prompt, completion, label in zip(
            rows["prompts"], rows["chosen"], rows["labels"], strict=True
        )
    ]
    encoding = encoding_config(ByteTokenizer(), max_length=20)
    made = tokenize_labelled(ByteTokenizer(), encoding, records).rows
    real = jnp.arange(made.ids.shape[-1])[None, None] < made.lengths[..., None]
    return made.replace(ids=jnp.where(real, made.ids, 7))
