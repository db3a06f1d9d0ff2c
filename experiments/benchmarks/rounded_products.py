"""Functions as hardware computes them that rounds the factors of matrix products.

A function is traced, and its jaxpr evaluated equation by equation, with other products.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def with_rounding(
    function: Callable[..., Any], exponent_bits: int, mantissa_bits: int
) -> Callable[..., Any]:
    """Returns a function that rounds the float32 factors of its matrix products.

    Raises a NotImplementedError where they may be within a primitive that is not looked
    into.
    """

    def rounded(x: jax.Array) -> jax.Array:
        if x.dtype != jnp.float32:
            return x
        return jax.lax.reduce_precision(x, exponent_bits, mantissa_bits)

    def run(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        found = evaluate(closed, jax.tree.leaves(args), rounded)
        return jax.tree.unflatten(jax.tree.structure(out), found)

    return run


def evaluate(closed: Any, args: Sequence[Any], rounded: Any) -> list[Any]:
    """Returns the results of a closed jaxpr, equation by equation."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= zip(jaxpr.invars, args, strict=True)

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [x.val if isinstance(x, Literal) else values[x] for x in atoms]

    for equation in jaxpr.eqns:
        found = apply_equation(equation, read(equation.invars), rounded)
        values |= zip(equation.outvars, found, strict=True)
    return read(jaxpr.outvars)


def apply_equation(equation: Any, args: list[Any], rounded: Any) -> list[Any]:
    """Returns the results of one equation, whose inner jaxprs are evaluated likewise."""
    params, name = equation.params, equation.primitive.name
    match name:
        case "dot_general":
            args = [rounded(x) for x in args]
        case "jit" | "checkpoint" | "remat2" | "custom_jvp_call" | "custom_vjp_call":
            inner = params["jaxpr" if "jaxpr" in params else "call_jaxpr"]
            if isinstance(inner, Jaxpr):
                inner = ClosedJaxpr(inner, ())
            return evaluate(inner, args, rounded)
        case "cond":
            branches = [
                lambda *args, inner=inner: evaluate(inner, args, rounded)
                for inner in params["branches"]
            ]
            return jax.lax.switch(args[0], branches, *args[1:])
        case "scan":
            return scan(params, args, rounded)
        case _ if any(map(is_jaxpr, jax.tree.leaves(params, is_leaf=is_jaxpr))):
            raise NotImplementedError(f"products within {name!r} are not rounded")
    found = equation.primitive.bind(*args, **params)
    return found if equation.primitive.multiple_results else [found]


def is_jaxpr(value: Any) -> bool:
    """Whether it is a program within an equation."""
    return isinstance(value, Jaxpr | ClosedJaxpr)


def scan(params: dict[str, Any], args: list[Any], rounded: Any) -> list[Any]:
    """Returns the results of a loop, whose steps are evaluated likewise."""
    first, last = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, rows = args[:first], args[first:last], args[last:]

    def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
        found = evaluate(params["jaxpr"], [*consts, *carry, *row], rounded)
        return found[: len(carry)], found[len(carry) :]

    how = {name: params[name] for name in ("length", "reverse")}
    carry, rows = jax.lax.scan(step, carry, rows, **how)
    return [*carry, *rows]
