"""A reward model: a trunk, and a head that reads the last token of a completion."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.rlhf.data.pairs import Tokens
from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.models.transformer import Transformer


class RewardModel(nn.Module):
    """Scores r_theta(x, y), one for each prompt and its completion.

    The variables are `params`, which are learned, and `scale`: the mean and the standard
    deviation of raw scores on a reference set, 0 and 1 until measured, by which every
    score is normalized.

    Attributes:
        config: the trunk's shape.
        use_bias: whether the head has a bias, unlike transformers'.
        head_hidden: width of a layer with a ReLU before the head's last; None has none.
        pad_id: the id that transformers takes for padding when it looks for a row's
            end: its score is read at the last token that is not it. None reads at the
            last token. The encoding cuts rows by it; scores are read where the lengths
            tell.
    """

    config: TransformerConfig
    use_bias: bool = False
    head_hidden: int | None = None
    pad_id: int | None = None

    def setup(self):
        """Makes the trunk, the head and the scale."""
        width, wide = self.config.hidden_size, self.config.wide_dtype
        self.trunk = Transformer(self.config)

        # Stiennon et al. (2020), https://arxiv.org/abs/2009.01325, as their code has it.
        def linear(inputs, outputs):
            init = nn.initializers.normal((inputs + 1) ** -0.5)
            return nn.Dense(
                outputs, use_bias=self.use_bias, dtype=wide, kernel_init=init
            )

        if self.head_hidden is not None:
            self.head_in = linear(width, self.head_hidden)
        self.head = linear(self.head_hidden or width, 1)
        self.mean = self.variable("scale", "mean", jnp.float32, 0.0)
        self.std = self.variable("scale", "std", jnp.float32, 1.0)

    def __call__(self, ids: jax.Array, lengths: jax.Array) -> jax.Array:
        """Returns scores `[B]` float32 of rows padded on the right.

        Args:
            ids: `[B, L]` int32; what stands after a row's end does not matter.
            lengths: `[B]` int32, at least 1.
        """
        return self._score(self.trunk.last(ids, lengths))

    def per_token(self, tokens: Tokens) -> jax.Array:
        """Returns a score at every token: `[B, L]` float32, zero at padding.

        Rows may be padded on either side; a row's score stands at its last token.
        """
        scores = self._score(self.trunk(tokens.ids, tokens.mask))
        return jnp.where(tokens.mask, scores, 0.0)

    def of_tokens(self, tokens: Tokens) -> jax.Array:
        """Returns scores `[B]` float32 of rows padded on either side."""
        last = (tokens.lengths - 1)[:, None]
        return jnp.take_along_axis(self.per_token(tokens), last, axis=1)[:, 0]

    def _score(self, hidden: jax.Array) -> jax.Array:
        if self.head_hidden is not None:
            hidden = nn.relu(self.head_in(hidden))
        return (self.head(hidden)[..., 0] - self.mean.value) / self.std.value


def keep_first_layers(
    config: TransformerConfig, variables: Any, num_layers: int
) -> tuple[TransformerConfig, Any]:
    """Returns a reward model of the first blocks alone; middle layers often judge better.

    The norm after the last block stays. Raises a `ValueError` if the model does not have
    `num_layers` blocks.
    """
    if not 1 <= num_layers <= config.num_layers:
        raise ValueError(
            f"num_layers must lie in [1, {config.num_layers}], the trunk's own, got "
            f"{num_layers}."
        )
    params = variables["params"]
    layers = jax.tree.map(lambda p: p[:num_layers], params["trunk"]["layers"])
    params = params | {"trunk": params["trunk"] | {"layers": layers}}
    shorter = dataclasses.replace(
        config, num_layers=num_layers, windows=config.windows[:num_layers]
    )
    return shorter, variables | {"params": params}


def stack_ensemble(members: Sequence[Any]) -> Any:
    """Stacks the variables of several models, for `jax.vmap` over an ensemble.

    Example:
        >>> variables = stack_ensemble([{"scale": jnp.zeros(2)}, {"scale": jnp.ones(2)}])
        >>> variables["scale"].shape
        (2, 2)
    """
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
