"""How precisely matrices of float32 are multiplied, which accelerators leave open.

A GPU or TPU is several times as fast where it may round the factors of a product; a CPU
never does. `experiments/benchmarks/matmul_precision.py` measures what rounding costs.
"""

from typing import Literal, get_args

import jax

MatmulPrecision = Literal["default", "high", "highest"]
"""Of products of float32, as JAX names them; sums are float32 in all three.

default: what is fastest on the device: a TPU rounds factors to bfloat16 (7 bits after the
point), an NVIDIA GPU may round them to TensorFloat-32 (10 bits).
high: about TensorFloat-32, or three products of bfloat16.
highest: float32 (23 bits).
"""


def use_matmul_precision(name: MatmulPrecision) -> None:
    """Makes all products that name no precision of their own this precise, from here on.

    Programs that were compiled otherwise stay, and are compiled anew when they are called.

    Args:
        name: as in `MatmulPrecision`, see `jax.default_matmul_precision`.

    Raises:
        ValueError: there is no such precision.
    """
    if name not in get_args(MatmulPrecision):
        raise ValueError(
            f"matmul_precision must be one of {', '.join(get_args(MatmulPrecision))}, got "
            f"{name!r}. Choose highest where in doubt."
        )
    jax.config.update("jax_default_matmul_precision", name)


def matmul_precision() -> str:
    """Returns the precision in use; "default" where none was chosen."""
    return jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
