"""Options with which XLA makes faster programs."""

from typing import Any

import jax

CPU_FLAGS = (
    "--xla_backend_extra_options=xla_cpu_use_multi_output_fusion=true,"
    "xla_cpu_small_while_loop_byte_threshold=1000000"
)
"""With these in the environment's `XLA_FLAGS` when JAX starts, XLA makes one kernel of all
steps of a block of environments: on a CPU `simulate` is more than twice as fast.
Accelerators need none."""


def compiler_options(platform: str | None = None) -> dict[str, Any]:
    """What `jax.jit` takes as `compiler_options`.

    Args:
        platform: "cpu", "gpu" or "tpu"; by default that of the default device.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    # XLA would use half the width of the vectors of a CPU that has 512-bit ones.
    return {"xla_cpu_prefer_vector_width": 512}
