"""Rotary position embeddings, as they were trained or stretched to longer rows."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding, stretched to longer rows if `factor` is not 1.

    Attributes:
        theta: the base of the frequencies.
        factor: how many times longer rows became.
        low_freq_factor: below this many turns within `original_max_length` a wave is
            stretched in full (llama3); at `high_freq_factor` it is kept.
        original_max_length: longest row before stretching, in tokens (llama3, yarn).
        stretch: the rule: all waves alike (linear), or the long ones more (llama3, yarn).
        beta_fast: at this many turns within `original_max_length` a wave is kept
            (yarn); at `beta_slow` it is stretched in full.
        truncate: whether those two become whole dimensions (yarn).
        attention_factor: multiplies queries and keys (yarn).

    References:
        Su et al. (2021), https://arxiv.org/abs/2104.09864; Llama Team (2024),
        https://arxiv.org/abs/2407.21783, section 3.2; Peng et al. (2023), YaRN,
        https://arxiv.org/abs/2309.00071.
    """

    theta: float = 10_000.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192
    stretch: Literal["llama3", "linear", "yarn"] = "llama3"
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0

    def __post_init__(self):
        if self.stretch not in ("llama3", "linear", "yarn"):
            raise ValueError(
                f"stretch must be llama3, linear or yarn, got {self.stretch!r}."
            )
        for name in ("theta", "factor", "attention_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}.")

    def frequencies(self, head_dim: int) -> np.ndarray:
        """`[head_dim / 2]` angles per position, in radians."""
        powers = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
        frequency = 1.0 / np.float32(self.theta) ** powers
        if self.factor == 1.0:
            return frequency
        if self.stretch == "linear":
            return (frequency / self.factor).astype(np.float32)
        if self.stretch == "yarn":
            keep = self._kept_by_yarn(head_dim)
        else:
            waves = self.original_max_length * frequency / (2 * math.pi)
            low, high = self.low_freq_factor, self.high_freq_factor
            keep = np.clip((waves - low) / (high - low), 0.0, 1.0)
        # Long waves are stretched by the factor, short ones kept, those between blended.
        blended = (1 - keep) * frequency / self.factor + keep * frequency
        return blended.astype(np.float32)

    def _kept_by_yarn(self, head_dim: int) -> np.ndarray:
        def dimension(turns: float) -> float:
            """The place of the wave that turns so often within the original length."""
            length = self.original_max_length / (2 * math.pi * turns)
            return head_dim * math.log(length) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        if low == high:
            high += 0.001
        ramp = (np.arange(head_dim // 2, dtype=np.float32) - low) / (high - low)
        return 1 - np.clip(ramp, 0.0, 1.0)

    def rotate(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Turns the halves of each head `[B, L, H, K]` by position times frequency.

        Args:
            x: queries or keys.
            positions: `[B, L]` int32.

        Returns:
            The same shape, float32; of float64, that.
        """
        frequencies = self.frequencies(x.shape[-1])
        places = positions[:, :, None, None].astype(jnp.float32)
        angles = places * frequencies[None, None, None]
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        if self.attention_factor != 1.0:
            sin, cos = sin * self.attention_factor, cos * self.attention_factor
        wide = jnp.promote_types(x.dtype, jnp.float32)
        a, b = jnp.split(x.astype(wide), 2, axis=-1)
        return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
