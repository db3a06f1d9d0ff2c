"""The experiments' programs are ready for GPUs and TPUs, as far as a CPU can tell.

Every program is lowered for both, from shapes alone. What is lowered is all that XLA gets:
operations that every platform has, and calls of a platform's library by name.
"""

import ast
import gc
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from accelerator_devices import mesh_of_two
from accelerator_parts import shape
from accelerator_programs import (
    MORE_ON_TWO_DEVICES,
    MORE_PROGRAMS,
    ON_TWO_DEVICES,
    PROGRAMS,
)
from jax.extend.core import ClosedJaxpr, Jaxpr

from rljax.numerics.compiler import compiler_options
from rljax.numerics.sharding import device_mesh
from rljax.training.populations import map_over_devices

ROOT = Path(__file__).parents[1]
WIDE = {"int64", "uint64", "float64", "complex128"}
COMPILES_NOTHING = {
    "fetch_ratings": "it brings a file",
    "fetch_smollm2": "it brings weights, and writes them anew",
    "recipes_report": "it draws tables",
}


@pytest.fixture(autouse=True, scope="module")
def types_as_asked_for():
    """A 64-bit type that code asks for by name is made, and can be found.

    By default JAX makes the 32-bit one in its place. Types that nobody named, such as an
    `arange`'s, still have 32 bits here.
    """
    before = jax.config.jax_explicit_x64_dtypes
    jax.config.update("jax_explicit_x64_dtypes", "allow")
    with jax.enable_x64(False):
        yield
    jax.config.update("jax_explicit_x64_dtypes", before)


@pytest.fixture(autouse=True, scope="module")
def quickly():
    """Checks of keys and collecting garbage would take nearly half of the time."""
    gc.disable()
    with jax.debug_key_reuse(False):
        yield
    gc.enable()


def lowered(function, args):
    """The program in StableHLO, for both platforms at once, and its number of devices."""
    found = jax.export.export(function, platforms=["cuda", "tpu"])(*args)
    return found.mlir_module(), found.nr_devices


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


def check(make):
    """Lowers a program; returns its text and its number of devices."""
    function, args = make()
    function = function if hasattr(function, "lower") else jax.jit(function)
    program, num_devices = lowered(function, args)
    assert library_calls(program) == set()
    assert wide_types(function.trace(*args).jaxpr.jaxpr) == set()
    return program, num_devices


def cases(programs, slow_ones):
    return [
        *(pytest.param(make, id=name) for name, make in programs.items()),
        *(
            pytest.param(make, id=name, marks=pytest.mark.slow)
            for name, make in slow_ones.items()
        ),
    ]


@pytest.mark.parametrize("make", cases(PROGRAMS, MORE_PROGRAMS))
def test_a_program_is_lowered_for_gpus_and_tpus(make):
    check(make)


@pytest.mark.parametrize("make", cases(ON_TWO_DEVICES, MORE_ON_TWO_DEVICES))
def test_a_program_of_two_devices_is_lowered_for_gpus_and_tpus(make):
    program, num_devices = check(make)
    assert num_devices == 2
    assert re.search(r'"(population|data|model)"=2', program)
    assert re.search(r"sdy\.(manual_computation|sharding_constraint)", program)


def test_code_takes_an_accelerators_branch():
    members = shape(32, 2)

    def program(mesh):
        mapped = map_over_devices(jax.vmap(jnp.sin), (0,), mesh)
        return lowered(jax.jit(mapped), [members])[0]

    on_cpu = device_mesh(jax.devices()[:2], "population")
    assert "while" in program(on_cpu)  # takes a few members at a time
    assert "while" not in program(mesh_of_two(population=2))


MATRIX = shape(4, 4)


def test_calls_of_libraries_are_found():
    orthogonal, _ = lowered(jax.jit(jnp.linalg.qr), [MATRIX])
    assert "Qr" in library_calls(orthogonal)
    lapack = jax.ffi.ffi_call("lapack_sgetrf_ffi", MATRIX)
    within = jax.jit(lambda x: jax.lax.map(lapack, x[None]))
    assert library_calls(lowered(within, [MATRIX])[0]) == {"lapack_sgetrf_ffi"}


def test_what_only_a_cpu_has_is_not_lowered():
    with pytest.raises(NotImplementedError, match="schur"):
        lowered(jax.jit(jax.lax.linalg.schur), [MATRIX])


def sums(x):
    """Within a loop, in float64."""

    def add(_, x):
        return x + x.astype("float64").sum().astype(x.dtype)

    return jax.lax.fori_loop(0, 3, add, x)


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (sums, {"float64"}),
        (lambda x: x + jnp.arange(4, dtype="int64").sum(), {"int64"}),
        (lambda x: x * jnp.zeros(4, jnp.uint64)[None], {"uint64"}),
        # Sizes, counters, numbers of Python and NumPy ask for no type.
        (lambda x: jnp.linalg.norm(x) + jnp.argmax(x) * np.float64(0.5), set()),
        (lambda x: jax.lax.fori_loop(0, 3, lambda i, x: x + 2.0 * i, x), set()),
    ],
    ids=["astype", "dtype", "created", "numbers", "counters"],
)
def test_wide_types_are_found_where_code_asks_for_them(function, found):
    assert wide_types(jax.make_jaxpr(function)(MATRIX).jaxpr) == found


def test_every_experiment_is_lowered():
    scripts = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text()
    }
    programs = PROGRAMS | ON_TWO_DEVICES  # not those of slow tests alone
    names = [name.split(": ")[0] for name in programs if ": " in name]
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
