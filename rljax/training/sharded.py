"""Learners over a mesh of devices: which leaf of a state lies how, said in one place.

    algorithm = sharded(ppo(env, network, config), make_mesh())
    state = train(algorithm, jax.jit(algorithm.init)(key, hyperparams, task), task, 100)

Environments are divided over the axes `data` and `model`, and so are the rows of a batch;
parameters and optimizer states over `model`, as in Rajbhandari et al. (2020),
https://arxiv.org/abs/1910.02054 ("ZeRO"); all the rest is everywhere. Keys and start states
are the same bit for bit whatever the mesh, other numbers but for rounding.
"""

import functools
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.base import Algorithm, Metrics, State
from rljax.numerics.processes import num_processes, put, to_host
from rljax.numerics.sharding import ROWS, make_mesh
from rljax.training.loggers import log_line

T = TypeVar("T")

DIVIDED = ("params", "opt_state", "critic")
"""Names in a leaf's path that say that it is divided over `model`; `envs`: over rows."""
SMALLEST = 1024
"""Numbers in the smallest leaf that is divided; smaller ones are everywhere."""


def mesh_for(rows: int, *, members: int = 1, model: int = 1) -> Mesh:
    """Returns the mesh of all devices for a population, or for a single learner.

    The greatest common divisor of devices and members is how many groups of devices take
    members of their own; those of a group share the rows. In one process as many devices
    are left idle, with a line that says so, as it takes for that to come out even.

    Args:
        rows: that are computed together, such as a microbatch's, or environments.
        members: of the population.
        model: devices that share one copy of the parameters.

    Raises:
        ValueError: there are not so many devices; or there are several processes, of which
            all devices take part, and they cannot share evenly.
    """
    count = jax.device_count()
    for used in range(count - count % model, 0, -model):
        population = math.gcd(used // model, members)
        if rows % (used // population) == 0:
            break
    else:
        raise ValueError(
            f"parameters can be divided among the {count} devices there are, if {model} "
            f"also share the {rows} rows evenly, got {model}. Choose a divisor of both."
        )
    if used < count and num_processes() > 1:
        raise ValueError(
            f"the {count} devices of {num_processes()} processes cannot share {members} "
            f"members of {rows} rows or environments evenly, {model} of them a copy of the "
            f"parameters. Use a multiple of {count} members, or of rows that are computed "
            f"together."
        )
    if used < count:
        log_line(f"{used} of {count} devices are used, which share {rows} rows evenly")
    return make_mesh(jax.devices()[:used], population=population, model=model)


@functools.cache
def sharded(algorithm: Algorithm[State], mesh: Mesh) -> Algorithm[State]:
    """Returns an algorithm whose states and batches are divided among a mesh's devices.

    On a mesh of one device it is the algorithm itself.

    Args:
        algorithm: any that calls `split_rows` on what it learns from.
        mesh: as `rljax.numerics.sharding.make_mesh` makes it.
    """
    if mesh.size == 1:
        return algorithm

    def init(*args: Any) -> State:
        with use_mesh(mesh):
            state = algorithm.init(*args)
            return constrained(state, mesh)

    def step(state: State, task: Any) -> tuple[State, Metrics]:
        with use_mesh(mesh):
            state, metrics = algorithm.step(state, task)
            return constrained(state, mesh), constrained(metrics, mesh)

    return Algorithm(init, step, algorithm.check)


def use_mesh(mesh: Mesh) -> Any:
    """A context in which `split_rows` divides rows among a mesh's devices."""
    current = jax.sharding.get_abstract_mesh()
    # Within a function of a population's share of a mesh it is in use already.
    return jax.sharding.use_abstract_mesh(
        current if current.axis_names == mesh.axis_names else mesh.abstract_mesh
    )


def constrained(state: T, mesh: Mesh) -> T:
    """Returns a state, or metrics, that lie as `layout` says; within a program."""
    # Within a population's share of a mesh, its axes' names are those of the context.
    in_share = jax.sharding.get_abstract_mesh().manual_axes

    def one(x: Any, spec: PartitionSpec) -> Any:
        where = spec if in_share else NamedSharding(mesh, spec)
        return jax.lax.with_sharding_constraint(x, where)

    return jax.tree.map(one, state, layout(state, mesh))


def place(tree: T, mesh: Mesh) -> T:
    """Puts what a learner reads on a mesh: parameters in parts, all the rest everywhere.

    Every process calls it with the same arrays, of which it passes on its own part. A
    mesh of one device leaves them where they are.
    """
    if mesh.size == 1:
        return tree

    def one(x: Any, spec: PartitionSpec) -> Any:
        return put(x, NamedSharding(mesh, spec))

    return jax.tree.map(one, tree, layout(tree, mesh))


def fetched(tree: T, mesh: Mesh) -> T:
    """Returns arrays of a mesh whole, for programs of one device and one process.

    Every process calls it. Those of a mesh of one device are returned as they are.
    """
    return tree if mesh.size == 1 else jax.tree.map(jnp.asarray, to_host(tree))


def layout(tree: Any, mesh: Mesh) -> Any:
    """Returns the `PartitionSpec` of every leaf of a state or a task, by its path.

    Args:
        tree: arrays or shapes.
        mesh: their mesh.
    """
    rows = tuple(name for name in ROWS if mesh.shape[name] > 1)
    num_rows = math.prod(mesh.shape[name] for name in rows)

    def spec(path: Any, x: Any) -> PartitionSpec:
        names = [str(getattr(k, "name", getattr(k, "key", k))) for k in path]
        if "envs" in names[:1] and rows and x.ndim and x.shape[0] % num_rows == 0:
            return PartitionSpec(rows)
        if set(names) & set(DIVIDED):
            return _divided(np.shape(x), mesh.shape["model"], "layers" in names)
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, tree)


def _divided(shape: tuple[int, ...], count: int, is_stacked: bool) -> PartitionSpec:
    """A leaf's longest axis that can be divided; of blocks, not that over the blocks."""
    axes = range(1 if is_stacked else 0, len(shape))
    possible = [i for i in axes if shape[i] % count == 0]
    if count == 1 or math.prod(shape) < SMALLEST or not possible:
        return PartitionSpec()
    longest = max(possible, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * longest, "model")
