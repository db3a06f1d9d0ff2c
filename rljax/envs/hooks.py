"""The optional methods of an environment, where they stand for those of the contract."""

from collections.abc import Callable
from typing import Any


def find_hook(env: Any, name: str, method: str) -> Callable[..., Any] | None:
    """The environment's optional method `name`; None where it does not stand for `method`.

    It does if one class defines both. One that is inherited beside an overriding
    `method`, or that a wrapper passes on by `__getattr__`, belongs to another `method`:
    the environment is what `reset` and `step` say.

    Example:
        class Bonus(Thermostat):
            def step(self, key, state, action, params): ...

        find_hook(Bonus(), "step_from_noise", "step")  # None
    """
    owner = find_owner(env, name)
    if owner is None or owner is not find_owner(env, method):
        return None
    return getattr(env, name)


def find_owner(env: Any, name: str) -> Any:
    """The class, or the environment itself, that defines an attribute; None if none does.

    An attribute that is None, as a wrapper's property may be, is not defined.
    """
    if getattr(env, name, None) is None:
        return None
    if name in getattr(env, "__dict__", {}):
        return env
    return next((cls for cls in type(env).__mro__ if name in vars(cls)), None)
