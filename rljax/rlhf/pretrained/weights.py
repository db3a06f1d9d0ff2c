"""Models in Hugging Face folders: read strictly, and written so that they read back.

Only `config.json`, safetensors and their index are read, and nothing outside the folder;
no pickle, no code.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from rljax.rlhf.models.config import Lora, TransformerConfig
from rljax.rlhf.models.reward_model import RewardModel
from rljax.rlhf.models.rope import Rope
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.pretrained.config import read_config, read_pad_id, write_config
from rljax.rlhf.pretrained.files import (
    PretrainedError,
    check_all_used,
    check_is_model,
    read_object,
    read_tensors,
    warn,
    write_folder,
)
from rljax.rlhf.pretrained.heads import PREFIXES, read_head
from rljax.rlhf.pretrained.names import Weight, names_of
from rljax.training.files import inside

RLJAX_FORMAT = "rljax.json"
_BY_TOKEN = ("embed/embedding", "lm_head/kernel")  # a row for each


def load_language_model(folder: Path | str) -> tuple[Transformer, Any]:
    """Returns the module and the float32 variables of a `*ForCausalLM` folder.

    Warns of what it passes over, and why that is harmless.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    _, config, tensors = _read_folder(folder, "ModelForCausalLM")
    params = from_tensors(config, tensors, folder, head=True)
    check_all_used(tensors, folder)
    return Transformer(config), {"params": params}


def load_reward_model(
    folder: Path | str, *, label: str | int | None = None
) -> tuple[RewardModel, Any]:
    """Returns the module and the float32 variables of a reward model.

    The folder is a `*ForSequenceClassification`, a language model with another head that
    `hf_heads` lists, or one of `save`. Warns of what it passes over, and why that is
    harmless.

    Args:
        folder: the model's.
        label: which score, where a model has several: a name of `id2label` in
            `config.json`, or an index.

    Raises:
        PretrainedError: the folder does not hold such a model, whole and finite.
    """
    folder = Path(folder)
    if inside(folder, RLJAX_FORMAT).exists():
        if label is not None:
            raise PretrainedError(
                f"label must be None for {folder}, which `save` wrote with one score, "
                f"got {label!r}."
            )
        return _load_rljax_format(folder)
    raw, config, tensors = _read_folder(folder, "ModelForSequenceClassification")
    head = read_head(tensors, raw, config.hidden_size, folder, label)
    if tensors.pop("lm_head.weight", None):
        warn(
            f"{folder} has lm_head.weight beside the reward model's head: harmless, "
            f"since a score needs no logits."
        )
    trunk = from_tensors(config, tensors, folder, head=False)
    check_all_used(tensors, folder)
    module = RewardModel(
        config,
        use_bias=head.use_bias,
        head_hidden=head.hidden,
        pad_id=read_pad_id(raw, folder / "config.json"),
    )
    scale = {"mean": jnp.float32(0.0), "std": jnp.float32(1.0)}
    return module, {"params": {"trunk": trunk} | head.params, "scale": scale}


def load_for_training(folder: Path | str) -> tuple[RewardModel, Any, bool]:
    """Returns a reward model to be trained, its parameters, and whether they have a head.

    The folder is a reward model's, or a language model's, whose head for logits is left
    out; then there is none yet. What normalizes a reward model's scores is left out too.

    Raises:
        PretrainedError: it holds neither, or an ensemble.
    """
    folder = Path(folder)
    is_reward = inside(folder, RLJAX_FORMAT).exists() or any(
        name.startswith(PREFIXES) for name in read_tensors(folder)
    )
    if is_reward:
        module, variables = load_reward_model(folder)
        if np.ndim(variables["scale"]["mean"]):
            raise PretrainedError(
                f"{folder} holds an ensemble, which is trained member by member. Give "
                f"the folder of one model."
            )
        return module, variables["params"], True
    trunk, variables = load_language_model(folder)
    params = {k: x for k, x in variables["params"].items() if k != "lm_head"}
    path = inside(folder, "config.json")
    pad_id = read_pad_id(read_object(path), path)
    return RewardModel(trunk.config, pad_id=pad_id), {"trunk": params}, False


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
    if module.config.lora is not None:
        reason = "it has low-rank terms, which `merge` adds to the weights"
    elif module.use_bias:
        reason = "its head has a bias"
    elif module.head_hidden is not None:
        reason = "its head has two layers"
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
    config |= {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    write_folder(Path(folder), config | {"pad_token_id": module.pad_id}, tensors)


def save(folder: Path | str, module: RewardModel, variables: Any) -> None:
    """Writes any reward model, ensembles too, for `load_reward_model` alone.

    transformers refuses such a folder rather than reading half of it.
    """
    config = dataclasses.asdict(module.config)
    config["dtype"] = jnp.dtype(module.config.dtype).name
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    tensors = {_path_name(path): np.asarray(leaf) for path, leaf in leaves}
    description = {
        "format": 1,
        "use_bias": module.use_bias,
        "head_hidden": module.head_hidden,
        "pad_id": module.pad_id,
        "config": config,
    }
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
        config["windows"] = tuple(config.get("windows", ()))
        if lora := config.get("lora"):
            config["lora"] = Lora(**lora | {"targets": tuple(lora["targets"])})
        module = RewardModel(
            TransformerConfig(**config),
            use_bias=description["use_bias"],
            head_hidden=description.get("head_hidden"),
            pad_id=description.get("pad_id"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PretrainedError(
            f"{path} is not one that `save` wrote: {error}."
        ) from error
    ids = jnp.zeros((1, 1), jnp.int32), jnp.ones(1, jnp.int32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *ids))
    tensors = read_tensors(folder)
    mean = tensors.get("scale/mean")
    members = np.shape(mean()) if mean else ()

    def read(place: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = _path_name(place)
        array = _read(tensors, name, folder)
        if array.shape != leaf.shape:  # members of an ensemble may share a leaf
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


def _read_folder(
    folder: Path, auto_class: str
) -> tuple[dict[str, Any], TransformerConfig, Any]:
    """Returns `config.json`, the shape that it describes, and readers of the tensors."""
    check_is_model(folder, auto_class)
    path = folder / "config.json"
    raw = read_object(inside(folder, "config.json"))
    config, tensors = read_config(raw, path), read_tensors(folder)
    # As TRL writes a model that it wraps.
    tensors = {
        name.removeprefix("pretrained_model."): reader
        for name, reader in tensors.items()
    }
    prefix = "transformer." if config.rope is None else "model."
    if not any(name.startswith(prefix) for name in tensors):  # a bare trunk's folder
        known = (prefix, "lm_head.", *PREFIXES)
        tensors = {
            name if name.startswith(known) else prefix + name: reader
            for name, reader in tensors.items()
        }
    return raw, config, tensors


@functools.lru_cache(maxsize=8)
def _weights(config: TransformerConfig, head: bool) -> dict[Weight, tuple[int, ...]]:
    """Returns the rows of a family that a shape has parameters for, and their shapes."""
    method = Transformer.logits if head else None
    ids = jnp.zeros((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda: Transformer(config).init(jax.random.key(0), ids, method=method)
    )
    flat = flatten_dict(shapes["params"], sep="/")
    return {row: flat[row.ours].shape for row in names_of(config) if row.ours in flat}


def from_tensors(
    config: TransformerConfig,
    tensors: dict[str, Any],
    folder: Path,
    *,
    head: bool,
) -> Any:
    """Returns parameters; the tensors that were used are taken out of `tensors`."""
    params, used = {}, set()
    if config.tie_embeddings and "lm_head.weight" in tensors:
        _check_tied(config, tensors, folder)
        used.add("lm_head.weight")
    for row, shape in _weights(config, head).items():
        array = np.empty(shape, np.float32)
        for name, index in row.tensors(config.num_layers):
            theirs = _read(tensors, name, folder)
            used.add(name)
            if row.ours in _BY_TOKEN:
                theirs = _rows_of_vocabulary(theirs, config, name, folder)
            if row.transposed:
                theirs = theirs.T
            if row.part is not None:
                theirs = np.split(theirs, 3, axis=-1)[row.part]
            _check_shape(theirs, array[index].shape, name, folder / "config.json")
            array[index] = theirs
        params[row.ours] = jnp.asarray(array)
    for name in used:
        del tensors[name]
    return unflatten_dict(params, sep="/")


def _check_tied(config: TransformerConfig, tensors: dict, folder: Path) -> None:
    (name,) = (r.theirs for r in names_of(config) if r.ours == "embed/embedding")
    embedding = _read(tensors, name, folder)
    if not np.array_equal(tensors["lm_head.weight"](), embedding):
        raise PretrainedError(
            f"lm_head.weight in {folder} must equal the embedding, to which config.json "
            f"ties it. Set tie_word_embeddings to false in config.json."
        )


def _rows_of_vocabulary(
    theirs: np.ndarray, config: TransformerConfig, name: str, folder: Path
) -> np.ndarray:
    """Returns the rows of ids in the vocabulary; more were added for speed."""
    if theirs.shape[0] > config.vocab_size:
        warn(
            f"{name} in {folder} has {theirs.shape[0]} rows for a vocab_size of "
            f"{config.vocab_size}: harmless, since no id reaches the others."
        )
    return theirs[: config.vocab_size]


def _to_tensors(
    config: TransformerConfig, params: Any, *, head: bool
) -> dict[str, np.ndarray]:
    """Returns a folder's tensors, by name; the inverse of `from_tensors`."""
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
