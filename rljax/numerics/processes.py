"""Several processes that run one program: which one this is, and what all of them know.

A program of JAX over the devices of several processes is the same in all of them, and so
must be what they decide between two programs. Alone, a process agrees with itself, and
nothing here costs anything.
"""

import json
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rljax.numerics.random import is_key


def num_processes() -> int:
    """Returns how many processes there are; 1 unless JAX was told of others."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def is_main() -> bool:
    """Returns whether this is the process that prints, logs and writes: the first."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def to_host(tree: Any) -> Any:
    """Returns whole arrays on the host, the same in every process, which all call it.

    Leaves become NumPy arrays, keys keys of this process.
    """
    leaves, structure = jax.tree.flatten(tree)
    numbers = [jax.random.key_data(x) if is_key(x) else x for x in leaves]
    # All of a mesh at once: what takes time is that processes wait for one another.
    elsewhere: dict[int, Any] = {
        i: x.sharding for i, x in enumerate(numbers) if _is_elsewhere(x)
    }
    for mesh in dict.fromkeys(sharding.mesh for sharding in elsewhere.values()):
        places = [i for i, sharding in elsewhere.items() if sharding.mesh == mesh]
        whole = NamedSharding(mesh, PartitionSpec())
        parts = [numbers[i] for i in places]
        found = jax.jit(lambda x: x, out_shardings=whole)(parts)
        for i, x in zip(places, found, strict=True):
            numbers[i] = x

    def one(x: Any, number: Any) -> Any:
        number = np.asarray(number)
        if not is_key(x):
            return number
        return jax.random.wrap_key_data(number, impl=jax.random.key_impl(x))

    return jax.tree.unflatten(structure, map(one, leaves, numbers))


def everywhere_sharding() -> NamedSharding | None:
    """Returns the sharding of what is on all devices of several processes, else None."""
    if num_processes() == 1:
        return None
    return NamedSharding(Mesh(np.array(jax.devices()), ("all",)), PartitionSpec())


def of_all_processes(tree: Any) -> Any:
    """Returns what processes save together: what only this one can read as NumPy arrays.

    All call it, with the same. Alone, a process returns it as it is.
    """
    if num_processes() == 1:
        return tree

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return x
        return put(x, everywhere_sharding()) if is_key(x) else np.asarray(x)

    return jax.tree.map(one, tree)


def put(x: Any, where: Any) -> Any:
    """Returns an array where a sharding says; of several processes all call it.

    Each has all of an array that it can read, and passes on what is to be on its devices.
    """
    if num_processes() == 1:
        return jax.device_put(x, where)
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=where)(x)
    if is_key(x):
        data = put(jax.random.key_data(x), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, where, lambda i: host[i])


def gather(value: Any) -> list[Any]:
    """Returns every process's value, JSON, in the order of the processes; all call it."""
    if num_processes() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(text)))).ravel()
    # One of few sizes, each of which is a program.
    room = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)
    room[: len(text)] = text
    rows = np.asarray(multihost_utils.process_allgather(room))
    pairs = zip(rows, sizes, strict=True)
    return [json.loads(row[:size].tobytes()) for row, size in pairs]


def agree(value: Any) -> Any:
    """Returns the first process's value, JSON, in every process; all call it."""
    return gather(value if is_main() else None)[0]


def is_lost(error: BaseException) -> bool:
    """Returns whether an error is that another process was lost."""
    about_others = "Gloo .*fail|NCCL .*(abort|remote)|[Cc]oordination ?[Ss]ervice"
    return num_processes() > 1 and bool(re.search(about_others, str(error)))


def any_process(flag: bool) -> bool:
    """Returns whether the flag is set in some process; all call it."""
    if num_processes() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.asarray(multihost_utils.process_allgather(np.bool_(flag))).any())


def _is_elsewhere(x: Any) -> bool:
    """Whether some of an array is on devices of other processes only."""
    return isinstance(x, jax.Array) and not (
        x.is_fully_addressable or x.is_fully_replicated
    )
