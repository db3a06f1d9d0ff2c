"""The flag that chooses a chat template."""

from pathlib import Path

from rljax.training.files import RunError


def read_template(name: str) -> bool | str:
    """Returns the text of a template's file, or whether to use the tokenizer's.

    `name` is auto, none or a file.
    """
    if name in ("auto", "none"):
        return name == "auto"
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"the template {name} cannot be read: {error}. Give auto, none or a file."
        ) from error
