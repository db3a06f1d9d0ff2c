"""Options for XLA, what a program needs, and the one place that times compiling."""

import threading
import time
from typing import Any, NamedTuple

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


class Memory(NamedTuple):
    """Bytes that a compiled program takes on each of its devices.

    Attributes:
        arguments: all that it reads.
        donated: arguments whose memory it gives to results.
        results: those that need memory of their own.
        temporary: what it needs in between.
    """

    arguments: int
    donated: int
    results: int
    temporary: int

    @property
    def total(self) -> int:
        """All bytes at once."""
        return self.arguments + self.results + self.temporary

    def describe(self) -> str:
        """Returns a line for people.

        Example:
            >>> Memory(500_000_000, 400_000_000, 0, 700_000_000).describe()
            'a device needs 1.2 GB: 0.5 of arguments (0.4 donated), 0.7 of temporary memory'
        """
        total, arguments, donated, results, temporary = (
            f"{x / 1e9:.2g}" for x in (self.total, *self)
        )
        more = f"{results} of results, " if self.results >= 0.01 * self.total else ""
        return (
            f"a device needs {total} GB: {arguments} of arguments ({donated} donated), "
            f"{more}{temporary} of temporary memory"
        )


def memory_of(compiled: Any) -> Memory:
    """Returns what a program takes of a device's memory, as XLA has planned it.

    Args:
        compiled: `jax.jit(...).lower(...).compile()`; nothing is run.
    """
    found = compiled.memory_analysis()
    return Memory(
        arguments=found.argument_size_in_bytes,
        donated=found.alias_size_in_bytes,
        results=found.output_size_in_bytes - found.alias_size_in_bytes,
        temporary=found.temp_size_in_bytes,
    )


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
