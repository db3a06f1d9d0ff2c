"""Other values, another text; the same values, the same text, in every process."""

import dataclasses
import functools
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.numerics.identity import identity

MAP = np.arange(1600.0).reshape(40, 40)
CHANGED = np.where(MAP == 820, 821, MAP)


class Plain:
    """An environment whose repr is its address."""

    def __init__(self, layout):
        self.layout = layout


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


@dataclasses.dataclass(frozen=True)
class Holder:
    value: Any


def scaled(scale):
    return lambda x: scale * x


def module_scaled(scale):
    """A function of a module (or script) that has this number in it."""
    names = {"SCALE": scale, "np": np}
    exec("def outer(x):\n  return np.asarray([(lambda y: SCALE * y)(x)])", names)
    return names["outer"]


def made(goal):
    """An environment of a class that a function makes."""

    class Env(Slotted):
        def __init__(self):
            super().__init__(0)

        def reward(self, x):
            return goal * x

    return Env()


class Unfrozen(Holder):
    """Adds an attribute that is no field."""

    def __init__(self, value, more):
        super().__init__(value)
        object.__setattr__(self, "more", more)


class Word(str):
    pass


class Whole(int):
    pass


def calling(helper):
    """A function of a script that calls another one of the same."""
    names = {}
    exec(f"def helper(x):\n  return x * {helper}\ndef f(x):\n  return helper(x)", names)
    return names["f"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (MAP, CHANGED),
        (Plain(MAP), Plain(CHANGED)),
        (Holder(Plain(1)), Holder(Plain(2))),
        (Slotted(1), Slotted(2)),
        (0.1, np.nextafter(0.1, 1)),
        (np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))),
        (jnp.float32(1 / 3), jnp.float32(0.33333334) + jnp.float32(3e-8)),
        (1, 1.0),
        (1, True),
        (np.float32(1), np.float64(1)),
        ((1, 2), [1, 2]),
        ({"a": 1}, {"b": 1}),
        (np.zeros((2, 8)), np.zeros((4, 4))),
        (scaled(1.0), scaled(2.0)),
        (module_scaled(1.0), module_scaled(2.0)),
        (module_scaled(MAP), module_scaled(CHANGED)),
        (lambda x: x + 1, lambda x: x + 2),
        (nn.tanh, nn.relu),
        (lambda x: x[..., 0], lambda x: x[..., 1]),
        (slice(0, 2), slice(0, 3)),
        (made(1.0), made(2.0)),
        (type("Env", (), {"goal": 1}), type("Env", (), {"goal": 2})),
        (Unfrozen(1, 2), Unfrozen(1, 3)),
        (calling(1), calling(2)),
        (Word("a"), Word("b")),
        (Word("a"), "a"),
        (Whole(1), Whole(2)),
        (np.ma.masked_array([1, 2], [0, 1]), np.ma.masked_array([1, 2], [1, 0])),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (jax.random.key(0), jax.random.key(1)),
        (rljax.CartPole(), rljax.CartPole(semi_implicit=True)),
        (rljax.ActorCritic(2), rljax.ActorCritic(3)),
        (jax.jit(lambda x: x), jax.jit(lambda x: -x)),
    ],
    ids=range(33),
)
def test_what_differs_is_another(one, other):
    assert identity(one) != identity(other)
    assert identity(one) == identity(one)


def test_an_equal_value_is_the_same():
    assert identity(Plain(MAP.copy())) == identity(Plain(MAP))
    assert identity({"a": 1, "b": 2}) == identity({"b": 2, "a": 1})
    assert identity(scaled(1.0)) == identity(scaled(1.0))
    assert identity(module_scaled(1.0)) == identity(module_scaled(1.0))
    assert identity(made(1.0)) == identity(made(1.0))
    assert identity(calling(1)) == identity(calling(1))
    assert identity(np.array([np.nan])) == identity(np.array([np.nan]))
    assert identity({3, 1, 2}) == identity({2, 3, 1})


@pytest.mark.parametrize("value", [object(), iter([1]), np.array([object()])])
def test_what_cannot_be_identified_is_refused(value):
    with pytest.raises(ValueError, match="cannot be identified"):
        identity(Holder(value))


def test_what_holds_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="list holds itself"):
        identity(loop)


@pytest.mark.slow
def test_another_process_says_the_same():
    code = (
        "import rljax, numpy as np; from rljax.numerics.identity import identity; "
        "print(identity((rljax.CartPole(), rljax.ActorCritic(2), {'b', 'a', 'c'}, "
        "np.arange(99.0), lambda x: x * 2)))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(texts) == 1
