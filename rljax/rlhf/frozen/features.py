"""What a model's blocks make of texts, computed once: what heads are fitted on.

The model does not change, so its hidden states are features, the same for every head, every
split and every seed. They are taken after the model's last norm, of whatever block: what
a `RewardModel` of the first blocks reads, so that a head on them can be exported.
"""

import dataclasses
import functools
import hashlib
import os
import secrets
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rljax.numerics.compiler import Stopwatch
from rljax.numerics.identity import identity, tree_sha256
from rljax.numerics.sharding import device_mesh
from rljax.numerics.validation import check_at_least
from rljax.rlhf.data.rows import Rankings
from rljax.rlhf.models.config import TransformerConfig
from rljax.rlhf.models.reward_model import RewardModel, keep_first_layers
from rljax.rlhf.models.transformer import Transformer
from rljax.rlhf.row_files import Counts, batching
from rljax.training.files import flush_to_disk, sync

Pooling = Literal["last", "mean"]
FORMAT = 1


class Texts(NamedTuple):
    """Different texts of a set of pairs, each once.

    Attributes:
        ids: `[T, L]` int32, padded on the right with 0.
        lengths: `[T]` int32.
        pairs: `[N, 2]` int32, which texts are the chosen and the rejected one of each.
    """

    ids: np.ndarray
    lengths: np.ndarray
    pairs: np.ndarray


def different_texts(rankings: Rankings) -> Texts:
    """Returns the texts of pairs, each once, however many pairs it is in.

    Raises:
        ValueError: they are rankings of more than two.
    """
    ids, lengths = np.asarray(rankings.ids), np.asarray(rankings.lengths)
    if ids.shape[1] != 2:
        raise ValueError(
            f"heads learn from pairs, got rankings of {ids.shape[1]}. Give their pairs."
        )
    sizes = lengths.reshape(-1)
    rows = _without_padding(ids.reshape(-1, ids.shape[-1]), sizes)
    both = np.column_stack([sizes, rows])  # 0 is a token too
    _, first, which = np.unique(both, axis=0, return_index=True, return_inverse=True)
    pairs = which.reshape(-1, 2).astype(np.int32)
    return Texts(rows[first], sizes[first].astype(np.int32), pairs)


def frozen_features(
    module: Transformer | RewardModel,
    variables: Any,
    ids: np.ndarray,
    lengths: np.ndarray,
    *,
    layers: Sequence[int] | None = None,
    pooling: Pooling = "last",
    cache: Path | str | None = None,
    max_tokens: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    on_batch: Callable[[Counts], None] | None = None,
) -> np.ndarray:
    """Returns hidden states `[K, N, D]` float32 of N texts after each of K blocks.

    They are normalized by the model's last norm. With pooling "last" they are what the
    head of a `RewardModel` of so many blocks reads. Texts of like length are computed
    together, in one compiled program for each padded length, as a `Scorer` does it.

    Args:
        module: whose blocks; a reward model's head is not used.
        variables: the module's.
        ids: `[N, L]` int32, padded on the right; the padding does not matter.
        lengths: `[N]` int32, at least 1.
        layers: numbers of blocks, ascending: k is the state after the first k; all of
            them by default. No block after the last of these is computed.
        pooling: each text's last token, or the mean over its tokens before the norm.
        cache: folder for a file of the features, which is found again by everything
            that they depend on. A file that is damaged is computed again.
        max_tokens: in a batch for each device, padding included, as for a `Scorer`.
        devices: which share a batch's rows; all of this process by default.
        on_batch: called with the work done on each batch, for a line of progress; not
            where the features are in the cache.

    Raises:
        ValueError: a block does not exist, a length or a token is out of range, or a
            feature is not finite.
    """
    layers = tuple(layers or range(1, module.config.num_layers + 1))
    _check_layers(layers, module.config.num_layers)
    lengths = np.asarray(lengths, np.int32)
    ids = _without_padding(np.asarray(ids, np.int32), lengths)
    _check_rows(ids, lengths, module.config)
    if max_tokens is not None:
        check_at_least(1, max_tokens=max_tokens)
    config, params = first_layers(module, variables, layers[-1])
    path = None
    if cache is not None:
        Path(cache).mkdir(parents=True, exist_ok=True)
        about = FORMAT, config, layers, pooling, ids, lengths
        path = Path(cache) / f"features-{_fingerprint(params, about)}.npz"
        shape = len(layers), len(ids), config.hidden_size
        if (found := _read(path, shape)) is not None:
            return found
    devices = jax.local_devices() if devices is None else list(devices)
    features = _compute(
        config, params, ids, lengths, layers, pooling, max_tokens, devices, on_batch
    )
    if not np.isfinite(features).all():
        row = np.flatnonzero(~np.isfinite(features).all(axis=(0, 2)))[0]
        raise ValueError(
            f"text {row} has a feature that is not finite. Look at the weights, or "
            f"compute in float32."
        )
    if path is not None:
        _write(path, features)
    return features


def first_layers(
    module: Transformer | RewardModel, variables: Any, num_layers: int
) -> tuple[TransformerConfig, Any]:
    """Returns the shape and the parameters of a trunk's first blocks, and its norm."""
    params = variables["params"]
    trunk = params["trunk"] if isinstance(module, RewardModel) else params
    trunk = {name: leaf for name, leaf in trunk.items() if name != "lm_head"}
    config = dataclasses.replace(module.config, fixed_layers=0, remat=False)
    config, first = keep_first_layers(config, {"params": {"trunk": trunk}}, num_layers)
    return config, first["params"]["trunk"]


def _compute(
    config, params, ids, lengths, layers, pooling, max_tokens, devices, on_batch
) -> np.ndarray:
    mesh, platform = device_mesh(devices), devices[0].platform
    by_row = NamedSharding(mesh, PartitionSpec("data"))
    params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    max_tokens = max_tokens or batching.default_max_tokens(platform)
    num_params = sum(leaf.size for leaf in jax.tree.leaves(params))
    program = _program(config, layers, pooling)
    features = np.empty((len(layers), len(ids), config.hidden_size), np.float32)
    longest = int(lengths.max(initial=1))
    compiled: set[int] = set()
    before: tuple[np.ndarray, jax.Array] | None = None

    def keep(batch: tuple[np.ndarray, jax.Array] | None) -> None:
        if batch is not None:
            features[:, batch[0]] = np.asarray(batch[1])[:, : len(batch[0])]

    for batch in batching.plan_batches(
        lengths,
        [batching.buckets(longest, density) for density in (8, 4, 2, 1)],
        lambda length: max(1, max_tokens // length) * len(devices),
        batching.default_compile_tokens(platform, num_params),
    ):
        rows, sizes = (
            np.zeros((batch.size, batch.length), np.int32),
            np.ones(batch.size),
        )
        count, width = len(batch.rows), min(batch.length, ids.shape[1])
        rows[:count, :width] = ids[batch.rows, :width]
        sizes[:count] = lengths[batch.rows]
        new, stopwatch = batch.length not in compiled, Stopwatch()
        placed = jax.device_put((rows, sizes.astype(np.int32)), by_row)
        found = program(params, *placed)
        compiled.add(batch.length)
        keep(before)  # while the device works on this one
        before = batch.rows, found
        if on_batch is not None:
            seconds = stopwatch.seconds_compile if new else 0.0
            tokens = int(lengths[batch.rows].sum())
            on_batch(Counts(count, tokens, rows.size, int(new), seconds))
    keep(before)
    return features


@functools.cache
def _program(config: TransformerConfig, layers: tuple[int, ...], pooling: Pooling):
    """Compiles `(params, ids, lengths) -> [K, B, D]`, once for each length."""
    module, places = Transformer(config), np.array(layers) - 1

    def normalized(trunk, ids, lengths):
        hidden = trunk.after_each_layer(ids, lengths, pooling)
        return trunk.norm(hidden[places]).astype(jnp.float32)

    def features(params, ids, lengths):
        apply: Any = module.apply
        return apply({"params": params}, ids, lengths, method=normalized)

    return jax.jit(features)


def _without_padding(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.where(np.arange(ids.shape[1])[None] < lengths[:, None], ids, 0)


def _check_layers(layers: tuple[int, ...], num_layers: int) -> None:
    ascending = layers == tuple(sorted(set(layers)))
    if not ascending or layers[0] < 1 or layers[-1] > num_layers:
        raise ValueError(
            f"layers must be different numbers of blocks in [1, {num_layers}], "
            f"ascending, got {layers}."
        )


def _check_rows(ids: np.ndarray, lengths: np.ndarray, config: TransformerConfig):
    if not len(ids):
        raise ValueError("there are no texts to compute features of. Give some.")
    most = min(ids.shape[1], config.max_length)
    if (wrong := (lengths < 1) | (lengths > most)).any():
        raise ValueError(
            f"a text must have 1 to {most} tokens, but text {wrong.argmax()} has "
            f"{lengths[wrong][0]}. Leave it out, or cut it."
        )
    if (wrong := (ids < 0) | (ids >= config.vocab_size)).any():
        raise ValueError(
            f"token {ids[wrong][0]} is not among the {config.vocab_size} that the model "
            f"embeds. Use the model's own tokenizer."
        )


def _fingerprint(params: Any, about: Any) -> str:
    parts = f"{identity(about)} {tree_sha256(params)}"
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the features in a file; None if there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            features = archive["features"]  # against a checksum
        if features.shape == shape and features.dtype == np.float32:
            return features
        reason = f"it holds {features.dtype} of shape {features.shape}"
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, OSError) as error:
        reason = str(error)
    warnings.warn(
        f"{path} is damaged ({reason}): its features are computed again.", stacklevel=3
    )
    return None


def _write(path: Path, features: np.ndarray) -> None:
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("wb") as file:
            np.savez(file, features=features)
            file.flush()
            flush_to_disk(file.fileno())
        os.replace(beside, path)
        sync(path.parent)
    except OSError as error:  # what took long to compute is not lost for it
        beside.unlink(missing_ok=True)
        warnings.warn(
            f"the features could not be kept: {error}. Make room, or choose another "
            f"cache.",
            stacklevel=3,
        )
