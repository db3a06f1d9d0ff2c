"""What the rows that a model makes follow from, by hashes."""

import dataclasses
import hashlib
from typing import Any

from rljax.numerics.identity import identity, tree_sha256
from rljax.rlhf.data.encoding import EncodingConfig
from rljax.rlhf.data.tokenizer import Tokenizer


def model_fingerprint(
    weights: Any, config: Any, tokenizer: Tokenizer, encoding: EncodingConfig
) -> dict[str, str]:
    """Returns what a model's output depends on, besides its input, by name.

    Args:
        weights: a tree of arrays.
        config: of the module.
        tokenizer: what turns text into tokens.
        encoding: how.
    """
    template = repr(encoding.template).encode()
    return {
        "weights": tree_sha256(weights),
        "config": identity(config),
        "tokenizer": tokenizer.fingerprint,
        "template": hashlib.sha256(template).hexdigest(),
        "encoding": identity(dataclasses.replace(encoding, template=None)),
    }
