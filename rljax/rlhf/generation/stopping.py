"""Which tokens end a completion."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rljax.rlhf.data.tokenizer import Tokenizer
from rljax.rlhf.pretrained import PretrainedError
from rljax.training.files import inside, json_object


def read_stop_ids(
    folder: Path, tokenizer: Tokenizer, more: Sequence[str | int] = ()
) -> tuple[int, ...]:
    """Returns the tokens that end a completion of the model in a folder, in order.

    They are those of its `generation_config.json`, or else of its `config.json`, and the
    tokenizer's EOS; and `more`, ids or texts of one token.

    Raises:
        ValueError: a file names something else, or a text is not one token.
    """
    found = set(_of_files(folder))
    if tokenizer.eos_id is not None:
        found.add(tokenizer.eos_id)
    for one in more:
        if isinstance(one, int):
            found.add(one)
            continue
        ids = tokenizer.encode([one])[0].ids
        if len(ids) != 1:
            raise ValueError(
                f"a completion ends with one token, and {one!r} is not one token, but "
                f"{len(ids)}. Give another text to stop at."
            )
        found.add(ids[0])
    return tuple(sorted(found))


def _of_files(folder: Path) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        path = inside(folder, name)
        if not path.exists():
            continue
        named: Any = json_object(path, PretrainedError).get("eos_token_id")
        if named is None:
            continue
        ids = named if isinstance(named, list) else [named]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise PretrainedError(
                f"eos_token_id in {path} must be one token's id or a list of them, got "
                f"{named!r}."
            )
        return ids
    return []
