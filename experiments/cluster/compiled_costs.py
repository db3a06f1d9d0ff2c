"""What a step costs, read off its program: bytes between devices, and products of matrices."""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import jaxprs_in_params

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
KINDS = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip


class Traffic(NamedTuple):
    """What a device sends in a step.

    Attributes:
        sent: bytes by kind of collective, and by how many devices of a node take part in
            one of several nodes; 0 for one that stays within a node.
        open_loops: loops with collectives whose number of turns XLA does not know; they
            are counted as one turn.
    """

    sent: Counter[tuple[str, int]]
    open_loops: int


def traffic(text: str, devices_per_node: int) -> Traffic:
    """Returns what a device sends in one run of a program, with rings of n devices.

    Of an array of S bytes, whole, it is 2 S (n - 1) / n in an all-reduce, S (n - 1) / n in
    an all-gather, a reduce-scatter and an all-to-all, and S in a permutation (Patarasuk and
    Yuan, 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations").
    What is in a loop counts as often as that turns; of branches, the one that sends most.

    Args:
        text: `jax.jit(...).lower(...).compile().as_text()`.
        devices_per_node: consecutive devices that one node has.

    Raises:
        ValueError: the text has a collective in a form that is not known here.
    """
    computations = _computations(text)

    def of(name: str) -> Traffic:
        sent: Counter[tuple[str, int]] = Counter()
        open_loops = 0
        for line in computations[name]:
            if found := _sent(line, devices_per_node):
                sent.update(found)
            parts = [of(called) for called in _called(line)]
            if " conditional(" in line and parts:
                parts = [max(parts, key=lambda part: part.sent.total())]
            turns = 1
            if " while(" in line and any(part.sent for part in parts):
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
                turns, open_loops = (
                    int(known[1]) if known else 1,
                    open_loops + (not known),
                )
            for part in parts:
                sent.update({key: turns * x for key, x in part.sent.items()})
                open_loops += part.open_loops
        return Traffic(sent, open_loops)

    (entry,) = re.findall(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)
    return of(entry)


def flops(function: Any, *args: Any) -> float:
    """Returns the operations of a function's matrix products, two for each multiplication.

    Loops of unknown length count as one turn; of branches, the one with most.

    Args:
        function: traced, not run.
        args: arrays or shapes.
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [_flops(x) for x in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            summed = math.prod(shape[i] for i in contracted)
            total += 2.0 * summed * math.prod(equation.outvars[0].aval.shape)
        elif equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += equation.params.get("length", 1) * sum(inner)
    return total


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a module, by its name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            found[start[1]] = lines = []
        elif found:
            lines.append(line)
    return found


def _called(line: str) -> list[str]:
    """The computations that an instruction calls; not what a collective adds up with."""
    if re.search(rf" (?:{'|'.join(KINDS)})\(", line):
        return []
    single = r"(?:body|condition|calls|to_apply|true_computation|false_computation)"
    found = re.findall(rf"\b{single}=%?([\w.-]+)", line)
    for names in re.findall(r"branch_computations=\{([^}]*)\}", line):
        found += [name.strip(" %") for name in names.split(",")]
    return found


def _sent(line: str, devices_per_node: int) -> dict[tuple[str, int], float]:
    """What a device sends in one instruction, if that is a collective."""
    match = re.search(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(", line)
    if not match:
        return {}
    result, kind, is_split = match.groups()
    if is_split:
        raise ValueError(f"a collective in two halves is not known here: {line[:200]}")
    size = sum(
        BYTES[name] * math.prod(int(x) for x in shape.split(",") if x)
        for name, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    )
    if kind == "collective-permute":
        return {(kind, 1): float(size)}
    group = _group(line)
    count, on_node = len(group), int((group < devices_per_node).sum())
    if kind == "reduce-scatter":
        size *= count
    passes = 2 if kind == "all-reduce" else 1
    place = 0 if on_node == count else on_node
    return {(kind, place): passes * size * (count - 1) / count}


def _group(line: str) -> np.ndarray:
    """The devices that take part in a collective together with device 0."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return np.array([int(x) for x in listed[1].split(",")])
    number = r"\[([\d,]+)\]"
    order = rf"{number}(?:T\(([\d,]+)\))?"
    if iota := re.search(rf"replica_groups={number}<={order}", line):
        shape, *laid = iota.groups()
        return _devices(*laid).reshape(_ints(shape))[0]
    mesh = re.search(
        rf"replica_groups=mesh\[(.*?)\](?:, device_ids=\({order}\))? \{{(.*?)\}}", line
    )
    if not mesh or ":" in mesh[0]:
        raise ValueError(f"devices in a form that is not known here: {line[:300]}")
    axes, shape, turned, over = mesh.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    laid_out = _devices(shape or str(math.prod(sizes.values())), turned)
    together = re.findall(r"'(\w+)'", over)
    place = tuple(slice(None) if name in together else 0 for name in sizes)
    return laid_out.reshape(tuple(sizes.values()))[place].ravel()


def _devices(shape: str, turned: str | None) -> np.ndarray:
    sizes = _ints(shape)
    laid_out = np.arange(math.prod(sizes)).reshape(sizes)
    return laid_out.transpose(_ints(turned)) if turned else laid_out


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split(","))
