"""Settings under which every test runs; they must precede JAX's start."""

import gc
import os
from pathlib import Path

import jax
import pytest

collect_ignore_glob = ["golden/*.py"]  # what makes them needs torch

# Compiling is most of the tests' time: what one process compiled, the others, those that
# tests start, and the next run take from here.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Two devices of one process wait for each other in the threads that both compute in: with
# as few threads as cores, XLA's CPU was seen to wait for ever.
os.environ.setdefault("PJRT_NPROC", "8")

jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


@pytest.hookimpl(tryfirst=True)  # before the slow ones are left out
def pytest_collection_modifyitems(items):
    """Makes all but some cases of tests marked so slow."""
    by_test = {}
    for item in items:
        if item.get_closest_marker("some_cases"):
            by_test.setdefault((item.path, item.originalname), []).append(item)
    for cases in by_test.values():
        (count,) = cases[0].get_closest_marker("some_cases").args
        kept = {len(cases) * i // count for i in range(count)}
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def optimize(request):
    """XLA optimizes little, to compile quickly, except in modules marked `optimized`."""
    little = request.node.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", little)
    with pytest.MonkeyPatch.context() as patch:  # for the processes that tests start
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(little)))
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    gc.freeze()  # compiled programs stay, and need not be looked through again


@pytest.fixture
def key():
    return jax.random.key(0)
