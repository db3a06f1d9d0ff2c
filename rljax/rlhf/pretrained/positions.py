"""Rotary positions and sliding windows of a `config.json`, read and written."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rljax.rlhf.models.rope import Rope
from rljax.rlhf.pretrained.files import typed

ROPE_FIELDS = (
    "rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor",
    "original_max_position_embeddings",
)  # fmt: skip

# What is read within them; with longrope's, which is refused.
ROPE_KEYS = (
    "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor",
    "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
    "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim",
    "long_factor", "short_factor",
)  # fmt: skip

# Theirs and ours, beside rope_type and rope_theta.
_LENGTH = ("original_max_position_embeddings", "original_max_length")
_STRETCHED = {
    "linear": {"factor": "factor"},
    "llama3": dict(
        [("factor", "factor"), _LENGTH]
        + [(name, name) for name in ("low_freq_factor", "high_freq_factor")]
    ),
    "yarn": dict(
        [("factor", "factor"), _LENGTH]
        + [
            (name, name)
            for name in ("attention_factor", "beta_fast", "beta_slow", "truncate")
        ]
    ),
}


def read_rope(raw: dict[str, Any], max_length: int) -> Rope:
    """Returns the rotary positions of a `config.json`.

    Raises:
        ValueError: they are of a kind that we do not compute.
    """
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling.
    rope = _checked(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    part = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise ValueError(
            f"partial_rotary_factor must be 1, got {part!r}: heads that turn in part "
            f"are not supported"
        )
    theta = rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0
    theta = typed("rope_theta", theta, float)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind in ("default", "dynamic"):
        # dynamic stretches rows beyond max_position_embeddings, which we refuse.
        return Rope(theta=theta)
    if kind not in list(_STRETCHED):
        raise ValueError(
            f"rope_type must be one of default, dynamic, {', '.join(_STRETCHED)}, got "
            f"{kind!r}"
        )
    length = (
        raw.get("original_max_position_embeddings")
        or rope.get("original_max_position_embeddings")
        or max_length
    )
    length = typed("original_max_position_embeddings", length, int)
    if kind == "linear":
        factor = typed("factor", rope["factor"], float)
        return Rope(theta=theta, factor=factor, stretch="linear")
    if kind == "yarn":
        return _read_yarn(rope, theta, length, max_length)
    return Rope(
        theta=theta,
        original_max_length=length,
        **{
            name: typed(name, rope[name], float)
            for name in ("factor", "low_freq_factor", "high_freq_factor")
        },
    )


def write_rope(rope: Rope) -> dict[str, Any]:
    """Returns the fields of `config.json`, as both transformers 4 and 5 read them."""
    new: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.factor == rope.attention_factor == 1.0:
        old = None
    else:
        new["rope_type"] = rope.stretch
        names = _STRETCHED[rope.stretch]
        new |= {theirs: getattr(rope, ours) for theirs, ours in names.items()}
        old = new
    return {"rope_parameters": new, "rope_theta": rope.theta, "rope_scaling": old}


def _checked(rope: Any) -> dict[str, Any]:
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters must be an object, got {rope!r}")
    if nested := [name for name, value in rope.items() if isinstance(value, dict)]:
        raise ValueError(
            f"rope_parameters must be those of all layers, got some of {nested[0]} alone"
        )
    return rope


def _read_yarn(
    rope: dict[str, Any], theta: float, length: int, max_length: int
) -> Rope:
    def number(name: str, default: float | None = None) -> Any:
        value = rope.get(name)
        return default if value is None else typed(name, value, float)

    factor = max_length / length if rope["factor"] is None else number("factor")
    attention_factor = number("attention_factor")
    if attention_factor is None:
        # As the paper has it in (22); DeepSeek multiplies the logarithms.
        above, below = number("mscale", 0.0), number("mscale_all_dim", 0.0)
        if above and below:
            attention_factor = _scale(factor, above) / _scale(factor, below)
        else:
            attention_factor = _scale(factor, 1.0)
    return Rope(
        theta=theta,
        factor=factor,
        stretch="yarn",
        original_max_length=length,
        beta_fast=number("beta_fast") or 32.0,
        beta_slow=number("beta_slow") or 1.0,
        truncate=bool(rope.get("truncate", True)),
        attention_factor=attention_factor,
    )


def _scale(factor: float, multiple: float) -> float:
    return 0.1 * multiple * math.log(factor) + 1.0 if factor > 1 else 1.0


_SLIDING, _FULL = "sliding_attention", "full_attention"


class Windows(NamedTuple):
    """How a family writes `TransformerConfig.windows` down.

    Attributes:
        fields: those of `config.json`.
        read: returns the windows of a `config.json` with so many layers.
        write: returns the fields for some windows of so many layers.
    """

    fields: tuple[str, ...]
    read: Callable[[dict[str, Any], int], tuple[int, ...]]
    write: Callable[[tuple[int, ...], int], dict[str, Any]]


def _read_full(raw: dict[str, Any], num_layers: int) -> tuple[int, ...]:
    return _by_layer(raw, None, [_FULL] * num_layers)


def _read_mistral(raw: dict[str, Any], num_layers: int) -> tuple[int, ...]:
    window = _window(raw)
    kinds = [_FULL if window is None else _SLIDING] * num_layers
    if raw.get("layer_types") not in (None, kinds):  # transformers passes it over
        raise ValueError(
            f"layer_types must be {kinds[0]} for all {num_layers} layers, which "
            f"sliding_window asks of a mistral, got {raw['layer_types']}"
        )
    return _by_layer(raw, window, kinds)


def _read_qwen(raw: dict[str, Any], num_layers: int) -> tuple[int, ...]:
    slides = typed("use_sliding_window", raw.get("use_sliding_window", False), bool)
    window = _window(raw) if slides else None
    full = typed("max_window_layers", raw.get("max_window_layers", 28), int)
    if window is None:
        full = num_layers
    kinds = [_SLIDING if i >= full else _FULL for i in range(num_layers)]
    return _by_layer(raw, window, kinds)


def _read_gemma2(raw: dict[str, Any], num_layers: int) -> tuple[int, ...]:
    kinds = [_FULL if i % 2 else _SLIDING for i in range(num_layers)]
    return _by_layer(raw, _window(raw), kinds)


def _window(raw: dict[str, Any]) -> int | None:
    window = raw.get("sliding_window", 4096)
    if window is not None and typed("sliding_window", window, int) < 1:
        raise ValueError(f"sliding_window must be at least 1 or null, got {window}")
    return window


def _by_layer(
    raw: dict[str, Any], window: int | None, kinds: list[str]
) -> tuple[int, ...]:
    given = raw.get("layer_types")
    if given is not None:
        whole = isinstance(given, list) and len(given) == len(kinds)
        if not whole or not all(kind in (_SLIDING, _FULL) for kind in given):
            raise ValueError(
                f"layer_types must be {_FULL} or {_SLIDING} for each of {len(kinds)} "
                f"layers, got {given}"
            )
        kinds = given
    if window is None and _SLIDING in kinds:
        raise ValueError(
            f"layer_types must be {_FULL} for all layers of a model without a sliding "
            f"window, got {kinds}"
        )
    windows = tuple(int(window or 0) if kind == _SLIDING else 0 for kind in kinds)
    return windows if any(windows) else ()


def _written(windows: tuple[int, ...], num_layers: int) -> dict[str, Any]:
    """Returns every field; those of a family are taken from it."""
    windows = windows or (0,) * num_layers
    return {
        "sliding_window": max(windows) or None,
        "use_sliding_window": any(windows),
        "max_window_layers": windows.count(0),
        "layer_types": [_SLIDING if window else _FULL for window in windows],
    }


def _write_gemma2(windows: tuple[int, ...], num_layers: int) -> dict[str, Any]:
    raw = _written(windows, num_layers)
    return {
        "sliding_window": raw["sliding_window"] or 4096,  # null is no Gemma 2
        "layer_types": raw["layer_types"],
    }


FULL = Windows(("layer_types",), _read_full, lambda windows, num_layers: {})
MISTRAL = Windows(
    ("sliding_window", "layer_types"),
    _read_mistral,
    lambda *args: {"sliding_window": _written(*args)["sliding_window"]},
)
QWEN = Windows(tuple(_written((), 1)), _read_qwen, _written)
GEMMA2 = Windows(("sliding_window", "layer_types"), _read_gemma2, _write_gemma2)
