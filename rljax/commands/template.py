"""The flags that choose how prompts become text."""

import datetime
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


def date_before(output: Path) -> datetime.date | None:
    """Returns the date that a part, or a finished file, was begun with."""
    from rljax.rlhf.row_files import settings_before

    date = settings_before(output).get("date")
    return datetime.date.fromisoformat(date) if isinstance(date, str) else None


def yes_or_no(yes: bool, no: bool) -> bool | None:
    """Returns what two flags say, of which at most one is given."""
    return True if yes else False if no else None
