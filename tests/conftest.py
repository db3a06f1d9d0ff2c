"""Settings under which every test runs; they must precede JAX's start."""

import os
from pathlib import Path

import jax
import pytest

collect_ignore_glob = ["golden/*.py"]  # what makes them needs torch

# Compiling is most of the tests' time: what one process compiled, the others, those that
# tests start, and the next run take from here.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))

jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True, scope="module")
def optimize(request):
    """XLA optimizes little, to compile quickly, except in modules marked `optimized`."""
    little = request.node.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", little)
    with pytest.MonkeyPatch.context() as patch:  # for the processes that tests start
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(little)))
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def key():
    return jax.random.key(0)
