"""Optional packages: imported where they are needed, with advice where they are missing."""

import importlib
from typing import Any


def require(module: str, purpose: str, extra: str) -> Any:
    """Imports a module of an optional package.

    Args:
        module: its full name, such as "matplotlib.figure".
        purpose: what needs it, as the error's first words: "pictures need".
        extra: the extra of rljax that installs it.

    Raises:
        ImportError: it is not installed; the message says how to install it.

    Example:
        >>> require("json", "an example needs", "test").dumps([])
        '[]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"{purpose} {package}, which is not installed. Install it with: pip install "
            f"'rljax[{extra}]'"
        ) from error
