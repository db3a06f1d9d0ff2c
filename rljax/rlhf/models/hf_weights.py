"""Models in Hugging Face folders: read strictly, and written so that they read back.

Only `config.json`, safetensors and their index are read, and nothing outside the folder;
no pickle, no code.
"""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Rope, Transformer, TransformerConfig
from rljax.training.files import FolderError, inside

OWN_FORMAT = "rljax.json"


class PretrainedError(FolderError):
    """A folder that cannot be read, or a model that cannot be written, as asked."""


class _Weight(NamedTuple):
    """Where a parameter of ours stands in a folder.

    Attributes:
        path: ours, within a transformer's parameters; in `layers` it is stacked.
        name: theirs; `{}` is the layer.
        transposed: theirs is `[outputs, inputs]`.
        part: which third of theirs it is (GPT-2 joins queries, keys and values).
    """

    path: tuple[str, ...]
    name: str
    transposed: bool = False
    part: int | None = None


def load_language_model(folder: Path | str) -> tuple[Transformer, Any]:
    """Reads a `*ForCausalLM` folder.

    Returns:
        The module and its variables, float32.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    raw = _read_config(folder)
    config = _config(raw, folder)
    tensors = _prefixed(config, _read_tensors(folder))
    params = _take(config, tensors, _weights(config, head="lm_head"), folder)
    _none_left(tensors, folder)
    return Transformer(config), {"params": params}


def load_reward_model(folder: Path | str) -> tuple[RewardModel, Any]:
    """Reads a `*ForSequenceClassification` folder with one label, or one of `save`.

    Returns:
        The module and its variables, float32.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    if inside(folder, OWN_FORMAT).exists():
        return _load_own(folder)
    raw = _read_config(folder)
    config = _config(raw, folder)
    tensors = _prefixed(config, _read_tensors(folder))
    if "score.weight" not in tensors:
        kind = ", ".join(raw.get("architectures") or ["unknown"])
        raise PretrainedError(
            f"{folder} holds no reward model: it has no score.weight (architecture: "
            f"{kind}). Give a folder of a *ForSequenceClassification model."
        )
    head = tensors.pop("score.weight")()
    if head.shape != (1, config.hidden_size):
        raise PretrainedError(
            f"score.weight in {folder} must be [1, {config.hidden_size}], one score for "
            f"a text, got {list(head.shape)}. Give a model with num_labels 1."
        )
    _check_finite(head, "score.weight", folder)
    trunk = _take(config, tensors, _weights(config), folder)
    _none_left(tensors, folder)
    params = {"trunk": trunk, "head": {"kernel": jnp.asarray(head.T)}}
    scale = {"mean": jnp.float32(0.0), "std": jnp.float32(1.0)}
    return RewardModel(config), {"params": params, "scale": scale}


def save_language_model(
    folder: Path | str, module: Transformer, variables: Any
) -> None:
    """Writes a folder that transformers loads as a `*ForCausalLM`."""
    weights = _weights(module.config, head="lm_head")
    tensors = _give(module.config, variables["params"], weights)
    _write(Path(folder), _to_hf(module.config, "ForCausalLM", "LMHeadModel"), tensors)


def save_reward_model(folder: Path | str, module: RewardModel, variables: Any) -> None:
    """Writes a folder that transformers loads as a `*ForSequenceClassification`.

    Raises:
        PretrainedError: transformers has no class for such a head.
    """
    params, scale = variables["params"], variables["scale"]
    reason = None
    if module.use_bias:
        reason = "its head has a bias"
    elif np.ndim(scale["mean"]):
        reason = "it is an ensemble"
    elif scale["mean"] != 0.0 or scale["std"] != 1.0:
        reason = f"it normalizes (mean {scale['mean']}, deviation {scale['std']})"
    if reason is not None:
        raise PretrainedError(
            f"transformers has no class for this reward model: {reason}. Use `save`, "
            f"which writes it in a format of our own."
        )
    tensors = _give(module.config, params["trunk"], _weights(module.config))
    tensors["score.weight"] = np.asarray(params["head"]["kernel"]).T
    config = _to_hf(module.config, *["ForSequenceClassification"] * 2)
    # So that no id is taken for padding where transformers looks for a row's end.
    labels = {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    _write(Path(folder), config | labels, tensors)


def save(folder: Path | str, module: RewardModel, variables: Any) -> None:
    """Writes any reward model, ensembles too, for `load_reward_model` alone.

    transformers refuses such a folder rather than reading half of it.
    """
    config = dataclasses.asdict(module.config)
    config["dtype"] = jnp.dtype(module.config.dtype).name
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    tensors = {_path_name(path): np.asarray(leaf) for path, leaf in leaves}
    own = {"format": 1, "use_bias": module.use_bias, "config": config}
    _write(Path(folder), own, tensors, config_name=OWN_FORMAT)


def _load_own(folder: Path) -> tuple[RewardModel, Any]:
    path = inside(folder, OWN_FORMAT)
    own = _read_json(path)
    try:
        if own["format"] != 1:
            raise ValueError(f"format must be 1, got {own['format']!r}")
        config = dict(own["config"])
        config["dtype"] = jnp.dtype(config["dtype"]).type
        config["rope"] = config["rope"] and Rope(**config["rope"])
        module = RewardModel(TransformerConfig(**config), use_bias=own["use_bias"])
    except (KeyError, TypeError, ValueError) as error:
        raise PretrainedError(
            f"{path} is not one that `save` wrote: {error}."
        ) from error
    ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *ids))
    tensors = _read_tensors(folder)
    mean = tensors.get("scale/mean")
    members = np.shape(mean()) if mean else ()  # of an ensemble every leaf has them

    def read(place: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = _path_name(place)
        if name not in tensors:
            raise PretrainedError(f"{folder} has no weight {name}: it is not whole.")
        array = tensors.pop(name)()
        _check_finite(array, name, folder)
        if array.shape != members + leaf.shape:
            raise PretrainedError(
                f"{name} in {folder} does not have the shape that {OWN_FORMAT} asks "
                f"for: {list(array.shape)}, not {list(members + leaf.shape)}."
            )
        return jnp.asarray(array, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(read, shapes)
    _none_left(tensors, folder)
    return module, variables


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


# Configurations


def _config(raw: dict[str, Any], folder: Path) -> TransformerConfig:
    """The shape that a `config.json` describes, of transformers 4 or 5."""
    kind = raw.get("model_type")
    readers: dict[Any, Callable] = {
        "llama": _llama_config,
        "qwen2": _llama_config,
        "qwen3": _llama_config,
        "gpt2": _gpt2_config,
    }
    if kind not in readers:
        raise PretrainedError(
            f"model_type in {folder / 'config.json'} must be one of "
            f"{', '.join(readers)}, got {kind!r}."
        )
    try:
        return readers[kind](raw)
    except KeyError as error:
        raise PretrainedError(
            f"{folder / 'config.json'} has no {error.args[0]}, which a {kind} needs."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise PretrainedError(f"{folder / 'config.json'}: {error}") from error


def _llama_config(raw: dict[str, Any]) -> TransformerConfig:
    kind, heads = raw["model_type"], raw["num_attention_heads"]
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act must be silu, got {raw['hidden_act']!r}")
    if raw.get("use_sliding_window") and raw.get("sliding_window"):
        raise ValueError("sliding-window attention is not supported")
    bias = bool(raw.get("attention_bias", False))
    return TransformerConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=raw.get("num_key_value_heads") or heads,
        # Qwen3's own default is not the quotient.
        head_dim=raw.get("head_dim")
        or (128 if kind == "qwen3" else raw["hidden_size"] // heads),
        max_length=raw["max_position_embeddings"],
        rope=_rope(raw),
        norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        qkv_bias=kind == "qwen2" or bias,
        out_bias=kind != "qwen2" and bias,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=kind == "qwen3",
        tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
    )


def _rope(raw: dict[str, Any]) -> Rope:
    # transformers 5 writes rope_parameters; before, rope_theta and rope_scaling.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return Rope(theta=theta)
    if kind != "llama3":
        raise ValueError(f"rope_type must be default or llama3, got {kind!r}")
    return Rope(
        theta=theta,
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_length=int(rope["original_max_position_embeddings"]),
    )


def _gpt2_config(raw: dict[str, Any]) -> TransformerConfig:
    if raw.get("activation_function", "gelu_new") != "gelu_new":
        given = raw["activation_function"]
        raise ValueError(f"activation_function must be gelu_new, got {given!r}")
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if raw.get(name):
            raise ValueError(f"{name} is not supported")
    width, heads = raw["n_embd"], raw["n_head"]
    return TransformerConfig(
        vocab_size=raw["vocab_size"],
        hidden_size=width,
        intermediate_size=raw.get("n_inner") or 4 * width,
        num_layers=raw["n_layer"],
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        max_length=raw["n_positions"],
        rope=None,
        norm_eps=float(raw.get("layer_norm_epsilon", 1e-5)),
        layer_norm=True,
        gated_mlp=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tie_embeddings=bool(raw.get("tie_word_embeddings", True)),
    )


def _to_hf(config: TransformerConfig, suffix: str, gpt2_suffix: str) -> dict[str, Any]:
    """The `config.json` of a shape, as both transformers 4 and 5 read it."""
    common = {
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.rope is None:
        return common | {
            "model_type": "gpt2",
            "architectures": [f"GPT2{gpt2_suffix}"],
            "n_embd": config.hidden_size,
            "n_inner": config.intermediate_size,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_positions": config.max_length,
            "layer_norm_epsilon": config.norm_eps,
        }
    if config.qk_norm:
        kind, name = "qwen3", "Qwen3"
    elif config.qkv_bias and not config.out_bias:
        kind, name = "qwen2", "Qwen2"
    else:
        kind, name = "llama", "Llama"
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope.theta}
    if config.rope.factor != 1.0:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope.factor,
            "low_freq_factor": config.rope.low_freq_factor,
            "high_freq_factor": config.rope.high_freq_factor,
            "original_max_position_embeddings": config.rope.original_max_length,
        }
    return common | {
        "model_type": kind,
        "architectures": [f"{name}{suffix}"],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias and config.out_bias,
        "mlp_bias": config.mlp_bias,
        "rope_parameters": rope,
        "rope_theta": config.rope.theta,
        "rope_scaling": rope if config.rope.factor != 1.0 else None,
    }


# Names


def _weights(config: TransformerConfig, head: str | None = None) -> list[_Weight]:
    """Every weight of a shape, as its family names it."""
    if config.rope is None:
        return _gpt2_weights(config, head)
    found = [
        _Weight(("embed", "embedding"), "model.embed_tokens.weight"),
        _Weight(("norm", "scale"), "model.norm.weight"),
    ]
    if head and not config.tie_embeddings:
        found.append(_Weight(("lm_head", "kernel"), f"{head}.weight", transposed=True))
    prefix = "model.layers.{}."
    norms = {
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
    }
    if config.qk_norm:
        norms |= {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
    for ours, theirs in norms.items():
        found.append(_Weight(("layers", ours, "scale"), f"{prefix}{theirs}.weight"))
    products = {name: (f"self_attn.{name}_proj", config.qkv_bias) for name in "qkv"}
    products["o"] = ("self_attn.o_proj", config.out_bias)
    for name in ("gate", "up", "down"):
        products[name] = (f"mlp.{name}_proj", config.mlp_bias)
    for ours, (theirs, bias) in products.items():
        path, name = ("layers", ours), prefix + theirs
        found.append(_Weight((*path, "kernel"), f"{name}.weight", transposed=True))
        if bias:
            found.append(_Weight((*path, "bias"), f"{name}.bias"))
    return found


def _prefixed(config: TransformerConfig, tensors: dict[str, Any]) -> dict[str, Any]:
    """Names with their family's prefix, which a folder of a bare trunk leaves out."""
    prefix = "transformer." if config.rope is None else "model."
    if any(name.startswith(prefix) for name in tensors):
        return tensors
    heads = ("lm_head.", "score.")
    return {
        name if name.startswith(heads) else prefix + name: reader
        for name, reader in tensors.items()
    }


def _gpt2_weights(config: TransformerConfig, head: str | None) -> list[_Weight]:
    # Conv1D keeps [inputs, outputs], so nothing is transposed.
    found = [
        _Weight(("embed", "embedding"), "transformer.wte.weight"),
        _Weight(("position_embed", "embedding"), "transformer.wpe.weight"),
        _Weight(("norm", "scale"), "transformer.ln_f.weight"),
        _Weight(("norm", "bias"), "transformer.ln_f.bias"),
    ]
    if head and not config.tie_embeddings:
        found.append(_Weight(("lm_head", "kernel"), f"{head}.weight", transposed=True))
    prefix = "transformer.h.{}."
    for ours, theirs in {"attention_norm": "ln_1", "mlp_norm": "ln_2"}.items():
        found.append(_Weight(("layers", ours, "scale"), f"{prefix}{theirs}.weight"))
        found.append(_Weight(("layers", ours, "bias"), f"{prefix}{theirs}.bias"))
    places: dict[str, tuple[str, int | None]] = {
        "o": ("attn.c_proj", None),
        "up": ("mlp.c_fc", None),
        "down": ("mlp.c_proj", None),
    }
    for part, name in enumerate("qkv"):
        places[name] = ("attn.c_attn", part)
    for ours, (theirs, third) in places.items():
        for leaf, end in {"kernel": "weight", "bias": "bias"}.items():
            name = f"{prefix}{theirs}.{end}"
            found.append(_Weight(("layers", ours, leaf), name, part=third))
    return found


# Tensors


def _take(
    config: TransformerConfig,
    tensors: dict[str, Callable[[], np.ndarray]],
    weights: list[_Weight],
    folder: Path,
) -> Any:
    """Parameters from a folder's tensors; those used are taken out of `tensors`."""
    shapes = jax.eval_shape(
        lambda: Transformer(config).init(
            jax.random.key(0),
            jnp.zeros((1, 1), jnp.int32),
            method=Transformer.logits
            if any(w.path[0] == "lm_head" for w in weights)
            else None,
        )
    )["params"]
    params: dict[str, Any] = {}
    used = set()
    for weight in weights:
        expected = _at(shapes, weight.path).shape
        stacked = weight.path[0] == "layers"
        array = np.empty(expected, np.float32)
        for i in range(config.num_layers if stacked else 1):
            name = weight.name.format(i)
            if name not in tensors:
                raise PretrainedError(
                    f"{folder} has no weight {name}: it is not whole."
                )
            used.add(name)
            theirs = tensors[name]()
            _check_finite(theirs, name, folder)
            if weight.transposed:
                theirs = theirs.T
            if weight.part is not None:
                theirs = np.split(theirs, 3, axis=-1)[weight.part]
            into = array[i] if stacked else array
            if theirs.shape != into.shape:
                raise PretrainedError(
                    f"{name} in {folder} does not have the shape that config.json "
                    f"asks for: {list(theirs.shape)}, not {list(into.shape)}."
                )
            into[...] = theirs
        inner = params
        for key in weight.path[:-1]:
            inner = inner.setdefault(key, {})
        inner[weight.path[-1]] = jnp.asarray(array)
    for name in used:
        del tensors[name]
    if config.tie_embeddings:
        tensors.pop("lm_head.weight", None)  # some write the tied matrix twice
    return params


def _give(
    config: TransformerConfig, params: Any, weights: list[_Weight]
) -> dict[str, np.ndarray]:
    """A folder's tensors from parameters."""
    tensors: dict[str, Any] = {}
    parts: dict[str, list[np.ndarray]] = {}
    for weight in weights:
        array = np.asarray(_at(params, weight.path), np.float32)
        stacked = weight.path[0] == "layers"
        for i in range(config.num_layers if stacked else 1):
            ours = array[i] if stacked else array
            ours = ours.T if weight.transposed else ours
            name = weight.name.format(i)
            if weight.part is None:
                tensors[name] = ours
            else:
                parts.setdefault(name, []).append(ours)  # weights come in order
    tensors |= {name: np.concatenate(p, axis=-1) for name, p in parts.items()}
    return tensors


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _check_finite(array: np.ndarray, name: str, folder: Path) -> None:
    if not np.isfinite(array.astype(np.float32)).all():
        raise PretrainedError(f"{name} in {folder} has numbers that are not finite.")


def _none_left(tensors: dict[str, Any], folder: Path) -> None:
    # Buffers that old versions of transformers stored, recomputed by everybody.
    buffers = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")
    left = sorted(name for name in tensors if not name.endswith(buffers))
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise PretrainedError(
            f"{folder} has weights that its config.json has no place for: "
            f"{', '.join(left[:3])}{more}."
        )


# Files


def _read_config(folder: Path) -> dict[str, Any]:
    config = _read_json(inside(folder, "config.json"))
    if not isinstance(config, dict):
        raise PretrainedError(f"{folder / 'config.json'} must hold a JSON object.")
    return config


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PretrainedError(
            f"{path} is missing. Give the folder of a model as transformers saves it."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise PretrainedError(f"{path} is not JSON: {error}.") from error


def _read_tensors(folder: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Readers of every tensor in a folder, by name; the headers are checked here."""
    index = inside(folder, "model.safetensors.index.json")
    places: Any = {}
    if index.exists():
        raw = _read_json(index)
        places = raw.get("weight_map") if isinstance(raw, dict) else None
        if not isinstance(places, dict) or not all(
            isinstance(name, str) for name in places.values()
        ):
            raise PretrainedError(f"{index} has no weight_map of names to files.")
        paths = [inside(folder, name) for name in sorted(set(places.values()))]
    else:
        paths = [inside(folder, "model.safetensors")]
    readers: dict[str, Callable[[], np.ndarray]] = {}
    for path in paths:
        for name, reader in _open(path):
            if name in readers:
                raise PretrainedError(f"{folder} has {name} in two files.")
            readers[name] = reader
    if missing := sorted(set(places) - set(readers)):
        raise PretrainedError(
            f"{index} names {missing[0]}, which its file does not hold."
        )
    return readers


def _open(path: Path) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(
            "pretrained models need safetensors, which is not installed. Install it "
            "with: pip install 'rljax[lm]'"
        ) from error
    try:
        file = safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise PretrainedError(f"{path} is missing: the folder is not whole.") from error
    except (SafetensorError, OSError) as error:
        raise PretrainedError(
            f"{path} is not a whole safetensors file: {error}. Copy it anew."
        ) from error
    for name in file.keys():  # noqa: SIM118 (it is no dict)
        yield name, functools.partial(file.get_tensor, name)


def _write(
    folder: Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    config_name: str = "config.json",
) -> None:
    from safetensors.numpy import save_file

    from rljax.training.files import sync, write_atomically

    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    beside = folder / ".model.safetensors.part"
    try:
        save_file(whole, beside, metadata={"format": "pt"})
        sync(beside)
        beside.replace(folder / "model.safetensors")
    finally:
        beside.unlink(missing_ok=True)
    write_atomically(folder / config_name, json.dumps(config, indent=2) + "\n")
    shutil.copymode(
        folder / config_name, folder / "model.safetensors"
    )  # not ours alone
