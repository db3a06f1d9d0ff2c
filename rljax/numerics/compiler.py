"""Options for XLA, and the one place that measures how long compiling takes."""

import threading
import time
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
    """The `compiler_options` of `jax.jit` for a platform.

    Args:
        platform: "cpu", "gpu" or "tpu"; by default that of the default device.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    # XLA would use half the width of the vectors of a CPU that has 512-bit ones.
    return {"xla_cpu_prefer_vector_width": 512}


# Tracing, lowering, and XLA's compiling or reading from the persistent cache.
_EVENTS = frozenset(
    f"/jax/core/compile/{name}_duration"
    for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_lock = threading.Lock()
_seconds = 0.0


def _count(event: str, duration_secs: float, **_: object) -> None:
    global _seconds
    if event in _EVENTS:
        with _lock:
            _seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


class Stopwatch:
    """Counts the seconds since it was made, compiling and all the rest apart.

    Compiling is what JAX reports of this process: tracing, lowering, and compiling or
    reading a compiled program from the persistent cache.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._compiled_before = _seconds

    @property
    def seconds_compile(self) -> float:
        """Seconds spent compiling."""
        return _seconds - self._compiled_before

    @property
    def seconds_run(self) -> float:
        """All the other seconds."""
        return time.perf_counter() - self._started - self.seconds_compile
