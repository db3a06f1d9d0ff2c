"""What this machine does at best, to hold measurements against."""

import time
from typing import Any

import jax
import jax.numpy as jnp


def matrix_peak() -> float:
    """FLOP/s of a large float32 matrix product: the best of ten."""
    a, product = jnp.ones((2048, 2048)), jax.jit(jnp.matmul)
    seconds = []
    for _ in range(11):
        started = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * 2048**3 / min(seconds)


def copy_peak() -> float:
    """Bytes/s read and written by adding to a large array in memory: the best of ten."""
    a, add = jnp.zeros(2**26), jax.jit(lambda x: x + 1)
    seconds = []
    for _ in range(11):
        started = time.perf_counter()
        add(a).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return 2 * a.nbytes / min(seconds)


def cost(compiled: Any) -> tuple[float, float]:
    """FLOPs and bytes of a compiled program, loops counted once, as XLA reckons."""
    found = compiled.cost_analysis()
    return found["flops"], found["bytes accessed"]
