"""Measurements in processes of their own: another library's environment, or other flags."""

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any

from rljax.training.files import RunError


def output(command: Sequence[Any], **environment: str) -> str:
    """What a command prints, with more variables set.

    Raises:
        RunError: it failed; with what it said, or that a Python has to be made.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, env=os.environ | environment
        )
    except FileNotFoundError as error:
        raise RunError(f"{words[0]} is missing. Make it: make peers") from error
    if done.returncode:
        raise RunError(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def rows(command: Sequence[Any], **environment: str) -> list[dict[str, Any]]:
    """The JSON objects that a command prints, one a line."""
    return [json.loads(line) for line in output(command, **environment).splitlines()]
