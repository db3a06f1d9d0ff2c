"""Models in Hugging Face folders: read strictly, and written so that they read back.

Only `config.json`, safetensors and their index are read, and nothing outside the folder;
no pickle, no code.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rljax.rlhf.models.hf_config import read_config, write_config
from rljax.rlhf.models.hf_files import (
    PretrainedError,
    check_all_used,
    read_object,
    read_tensors,
    write_folder,
)
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.transformer import Rope, Transformer, TransformerConfig
from rljax.training.files import inside

RLJAX_FORMAT = "rljax.json"


class _Weight(NamedTuple):
    """The path of a parameter, stacked in `layers`, and its tensor's name with `{}` there.

    Where `transposed`, theirs is `[outputs, inputs]`; a vector is the same. `part` is
    which third of theirs it is (GPT-2 joins queries, keys and values).
    """

    ours: str
    theirs: str
    transposed: bool = False
    part: int | None = None

    def tensors(self, num_layers: int) -> list[tuple[str, Any]]:
        """Returns each tensor's name, and the index of its place in our parameter."""
        if self.ours.startswith("layers/"):
            return [(self.theirs.format(i), i) for i in range(num_layers)]
        return [(self.theirs, ...)]


def _blocks(prefix: str, parts: dict[str, str], transposed: bool) -> list[_Weight]:
    """Returns the rows of each part of a block: its weight, then its bias."""
    return [
        _Weight(
            f"layers/{ours}/{leaf}",
            f"{prefix}.{{}}.{theirs}.{'bias' if leaf == 'bias' else 'weight'}",
            transposed,
            "qkv".index(ours) if theirs == "attn.c_attn" else None,
        )
        for ours, theirs in parts.items()
        for leaf in ("scale" if ours.endswith("norm") else "kernel", "bias")
    ]


# Rows that a model has no parameter for (biases, norms, a tied head) are passed over.
_HEAD = _Weight("lm_head/kernel", "lm_head.weight", transposed=True)
_LLAMA = [
    _HEAD,
    _Weight("embed/embedding", "model.embed_tokens.weight"),
    _Weight("norm/scale", "model.norm.weight"),
    *_blocks(
        "model.layers",
        {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
        | {name: f"self_attn.{name}" for name in ("q_norm", "k_norm")}
        | {name: f"self_attn.{name}_proj" for name in "qkvo"}
        | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
        transposed=True,
    ),
]
# Conv1D keeps [inputs, outputs], so nothing is transposed but the head.
_GPT2 = [
    _HEAD,
    _Weight("embed/embedding", "transformer.wte.weight"),
    _Weight("position_embed/embedding", "transformer.wpe.weight"),
    _Weight("norm/scale", "transformer.ln_f.weight"),
    _Weight("norm/bias", "transformer.ln_f.bias"),
    *_blocks(
        "transformer.h",
        {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
        | {"o": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
        | dict.fromkeys("qkv", "attn.c_attn"),
        transposed=False,
    ),
]


def load_language_model(folder: Path | str) -> tuple[Transformer, Any]:
    """Returns the module and the float32 variables of a `*ForCausalLM` folder.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    _, config, tensors = _read_folder(folder)
    params = _from_tensors(config, tensors, folder, head=True)
    check_all_used(tensors, folder)
    return Transformer(config), {"params": params}


def load_reward_model(folder: Path | str) -> tuple[RewardModel, Any]:
    """Returns the module and the float32 variables of a reward model.

    The folder is a `*ForSequenceClassification`, or one of `save`.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    if inside(folder, RLJAX_FORMAT).exists():
        return _load_rljax_format(folder)
    raw, config, tensors = _read_folder(folder)
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
    trunk = _from_tensors(config, tensors, folder, head=False)
    check_all_used(tensors, folder)
    params = {"trunk": trunk, "head": {"kernel": jnp.asarray(head.T)}}
    scale = {"mean": jnp.float32(0.0), "std": jnp.float32(1.0)}
    return RewardModel(config), {"params": params, "scale": scale}


def save_language_model(
    folder: Path | str, module: Transformer, variables: Any
) -> None:
    """Writes a folder that transformers loads as a `*ForCausalLM`."""
    tensors = _to_tensors(module.config, variables["params"], head=True)
    config = write_config(module.config, is_reward_model=False)
    write_folder(Path(folder), config, tensors)


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
    tensors = _to_tensors(module.config, params["trunk"], head=False)
    tensors["score.weight"] = np.asarray(params["head"]["kernel"]).T
    config = write_config(module.config, is_reward_model=True)
    # So that no id is taken for padding where transformers looks for a row's end.
    labels = {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    write_folder(Path(folder), config | labels, tensors)


def save(folder: Path | str, module: RewardModel, variables: Any) -> None:
    """Writes any reward model, ensembles too, for `load_reward_model` alone.

    transformers refuses such a folder rather than reading half of it.
    """
    config = dataclasses.asdict(module.config)
    config["dtype"] = jnp.dtype(module.config.dtype).name
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    tensors = {_path_name(path): np.asarray(leaf) for path, leaf in leaves}
    description = {"format": 1, "use_bias": module.use_bias, "config": config}
    write_folder(Path(folder), description, tensors, config_name=RLJAX_FORMAT)


def _load_rljax_format(folder: Path) -> tuple[RewardModel, Any]:
    path = inside(folder, RLJAX_FORMAT)
    description = read_object(path)
    try:
        if description["format"] != 1:
            raise ValueError(f"format must be 1, got {description['format']!r}")
        config = dict(description["config"])
        config["dtype"] = jnp.dtype(config["dtype"]).type
        config["rope"] = config["rope"] and Rope(**config["rope"])
        module = RewardModel(
            TransformerConfig(**config), use_bias=description["use_bias"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PretrainedError(
            f"{path} is not one that `save` wrote: {error}."
        ) from error
    ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *ids))
    tensors = read_tensors(folder)
    mean = tensors.get("scale/mean")
    members = np.shape(mean()) if mean else ()  # of an ensemble every leaf has them

    def read(place: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = _path_name(place)
        array = _read(tensors, name, folder)
        _check_shape(array, members + leaf.shape, name, folder / RLJAX_FORMAT)
        del tensors[name]
        return jnp.asarray(array, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(read, shapes)
    check_all_used(tensors, folder)
    return module, variables


def _read(tensors: dict[str, Any], name: str, folder: Path) -> np.ndarray:
    if name not in tensors:
        raise PretrainedError(f"{folder} has no weight {name}: it is not whole.")
    return tensors[name]()


def _check_shape(array: np.ndarray, shape: tuple, name: str, config: Path) -> None:
    if array.shape != shape:
        raise PretrainedError(
            f"{name} in {config.parent} does not have the shape that {config.name} asks "
            f"for: {list(array.shape)}, not {list(shape)}."
        )


def _path_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _read_folder(folder: Path) -> tuple[dict[str, Any], TransformerConfig, Any]:
    """Returns `config.json`, the shape that it describes, and readers of the tensors."""
    path = folder / "config.json"
    raw = read_object(inside(folder, "config.json"))
    config, tensors = read_config(raw, path), read_tensors(folder)
    prefix = "transformer." if config.rope is None else "model."
    if not any(name.startswith(prefix) for name in tensors):  # a bare trunk's folder
        known = (prefix, "lm_head.", "score.")
        tensors = {
            name if name.startswith(known) else prefix + name: reader
            for name, reader in tensors.items()
        }
    return raw, config, tensors


def _weights(config: TransformerConfig, head: bool) -> dict[_Weight, tuple[int, ...]]:
    """Returns the rows of the family's table that a shape has, and their shapes."""
    method = Transformer.logits if head else None
    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda: Transformer(config).init(jax.random.key(0), ids, method=method)
    )
    flat = flatten_dict(shapes["params"], sep="/")
    table = _GPT2 if config.rope is None else _LLAMA
    return {row: flat[row.ours].shape for row in table if row.ours in flat}


def _from_tensors(
    config: TransformerConfig,
    tensors: dict[str, Any],
    folder: Path,
    *,
    head: bool,
) -> Any:
    """Returns parameters; the tensors that were used are taken out of `tensors`."""
    params, used = {}, {"lm_head.weight"} if config.tie_embeddings else set()
    for row, shape in _weights(config, head).items():
        array = np.empty(shape, np.float32)
        for name, index in row.tensors(config.num_layers):
            theirs = _read(tensors, name, folder)
            used.add(name)
            if row.transposed:
                theirs = theirs.T
            if row.part is not None:
                theirs = np.split(theirs, 3, axis=-1)[row.part]
            _check_shape(theirs, array[index].shape, name, folder / "config.json")
            array[index] = theirs
        params[row.ours] = jnp.asarray(array)
    for name in used:
        tensors.pop(name, None)  # not all write a tied head
    return unflatten_dict(params, sep="/")


def _to_tensors(
    config: TransformerConfig, params: Any, *, head: bool
) -> dict[str, np.ndarray]:
    """Returns a folder's tensors, by name; the inverse of `_from_tensors`."""
    parts: dict[str, list[np.ndarray]] = {}
    flat = flatten_dict(params, sep="/")
    for row in _weights(config, head):
        array = np.asarray(flat[row.ours], np.float32)
        for name, index in row.tensors(config.num_layers):
            ours = array[index].T if row.transposed else array[index]
            parts.setdefault(name, []).append(ours)  # thirds come in order
    return {
        name: found[0] if len(found) == 1 else np.concatenate(found, axis=-1)
        for name, found in parts.items()
    }
