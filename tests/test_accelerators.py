"""The experiments' programs are ready for GPUs and TPUs, as far as a CPU can tell.

Every program is lowered for both, from shapes alone. What is lowered is all that XLA gets:
operations that every platform has, and calls of a platform's library by name.
"""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from accelerator_programs import MORE_PROGRAMS, PROGRAMS
from jax.extend.core import ClosedJaxpr, Jaxpr

from rljax.numerics.compiler import compiler_options

ROOT = Path(__file__).parents[1]
WIDE = {"int64", "uint64", "float64", "complex128"}
COMPILES_NOTHING = {
    "fetch_ratings": "it brings a file",
    "fetch_smollm2": "it brings weights, and writes them anew",
    "recipes_report": "it draws tables",
}


@pytest.fixture(autouse=True, scope="module")
def without_checks_of_keys():
    """They take a fifth of the time to trace, and other tests run with them."""
    with jax.debug_key_reuse(False):
        yield


def lowered(function, args):
    """The program in StableHLO, for both platforms at once."""
    return jax.export.export(function, platforms=["cuda", "tpu"])(*args).mlir_module()


def library_calls(program):
    """The names of what it calls, other than XLA's operations.

    LAPACK's are for CPUs alone. What JAX calls in its place on other platforms is asked
    for as little, so that none is allowed.
    """
    return set(re.findall(r"custom_call @([\w.$]+)", program))


def wide_types(jaxpr):
    """The 64-bit types of values in a jaxpr, and in those within it."""
    variables = [*jaxpr.constvars, *jaxpr.invars, *jaxpr.outvars]
    found = set()
    for equation in jaxpr.eqns:
        variables += [*equation.invars, *equation.outvars]
        for value in jax.tree.leaves(equation.params, is_leaf=is_jaxpr):
            if is_jaxpr(value):
                found |= wide_types(getattr(value, "jaxpr", value))
    types = {str(getattr(variable.aval, "dtype", "")) for variable in variables}
    return found | (types & WIDE)


def is_jaxpr(value):
    return isinstance(value, Jaxpr | ClosedJaxpr)


CASES = [
    *(pytest.param(make, id=name) for name, make in PROGRAMS.items()),
    *(
        pytest.param(make, id=name, marks=pytest.mark.slow)
        for name, make in MORE_PROGRAMS.items()
    ),
]


@pytest.mark.parametrize("make", CASES)
def test_a_program_is_lowered_for_gpus_and_tpus(make):
    function, args = make()
    function = function if hasattr(function, "lower") else jax.jit(function)
    assert library_calls(lowered(function, args)) == set()
    if not jax.config.jax_enable_x64:
        assert wide_types(function.trace(*args).jaxpr.jaxpr) == set()


MATRIX = jax.ShapeDtypeStruct((4, 4), jnp.float32)


def test_calls_of_libraries_are_found():
    orthogonal = lowered(jax.jit(jnp.linalg.qr), [MATRIX])
    assert "Qr" in library_calls(orthogonal)
    lapack = jax.ffi.ffi_call("lapack_sgetrf_ffi", MATRIX)
    within = jax.jit(lambda x: jax.lax.map(lapack, x[None]))
    assert library_calls(lowered(within, [MATRIX])) == {"lapack_sgetrf_ffi"}


def test_what_only_a_cpu_has_is_not_lowered():
    with pytest.raises(NotImplementedError, match="schur"):
        lowered(jax.jit(jax.lax.linalg.schur), [MATRIX])


def test_wide_types_are_found_within_loops():
    def sums(x):
        def add(_, x):
            return x + x.astype("float64").sum().astype(x.dtype)

        return jax.lax.fori_loop(0, 3, add, x)

    with jax.enable_x64(True):
        assert wide_types(jax.make_jaxpr(sums)(MATRIX).jaxpr) >= {"float64"}
    assert wide_types(jax.make_jaxpr(jnp.linalg.norm)(MATRIX).jaxpr) == set()


def test_every_experiment_is_lowered():
    scripts = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }
    names = [name.split(": ")[0] for name in PROGRAMS if ": " in name]
    there = {script for name in names for script in name.split(", ")}
    assert there.isdisjoint(COMPILES_NOTHING)
    assert there | COMPILES_NOTHING.keys() == scripts, "add it to accelerator_programs"


def test_options_for_cpus_are_for_cpus_alone():
    assert compiler_options("gpu") == compiler_options("tpu") == {}
    assert compiler_options("cpu")


def test_all_options_come_from_one_place():
    seen = 0
    for path in [*ROOT.glob("rljax/**/*.py"), *ROOT.glob("experiments/**/*.py")]:
        text = path.read_text()
        if path != ROOT / "rljax/numerics/compiler.py":
            assert "xla_cpu_" not in text, path
        if "compiler_options=" in text:
            calls, names = options_of(ast.parse(text))
            assert calls <= names | {"compiler_options"}, path
            seen += len(calls)
    assert seen > 3


def options_of(tree):
    """What is given as compiler_options, and the names of what that function returned."""
    given, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "compiler_options":
            value = node.value
            name = value.func if isinstance(value, ast.Call) else value
            given.add(name.id if isinstance(name, ast.Name) else ast.unparse(name))
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            function = node.value.func
            if isinstance(function, ast.Name) and function.id == "compiler_options":
                names |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    return given, names
