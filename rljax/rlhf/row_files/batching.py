"""Which rows are computed together, and how long they are padded: functions of lengths."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Rows that are computed together, the longest first, padded to `length` tokens.

    Up to `size` rows, empty ones are added.
    """

    rows: np.ndarray
    length: int
    size: int


def plan_batches(
    lengths: np.ndarray,
    grids: Sequence[Sequence[int]],
    batch_size: Callable[[int], int],
    compile_tokens: float,
) -> list[Batch]:
    """Returns padded batches that hold every row once, the longest rows first.

    The plan follows from the arguments alone, so that the same rows meet the same
    programs whatever was scored before, or by a process that was killed.

    Args:
        lengths: `[N]` int32, in tokens.
        grids: lists of lengths to pad to, of which the one that costs least is taken.
        batch_size: rows in a batch of a length.
        compile_tokens: tokens that are computed in the time that it takes to compile
            the program of one length.

    Example:
        >>> for batch in plan_batches(np.array([3, 9, 7]), [[8, 16]], lambda _: 2, 0.0):
        ...     print(batch.rows, batch.length)
        [1 2] 16
        [0] 8
    """

    def cost(grid: Sequence[int]) -> float:
        used = np.searchsorted(grid, lengths)
        return np.take(grid, used).sum() + len(np.unique(used)) * compile_tokens

    grid = min(grids, key=cost)
    left, batches = np.argsort(-lengths, kind="stable"), []
    while left.size:
        # The longest row left chooses the length; shorter ones fill its batch, so that
        # only a window's last batch has empty rows.
        length = grid[np.searchsorted(grid, lengths[left[0]])]
        size = batch_size(length)
        batches.append(Batch(left[:size], length, size))
        left = left[size:]
    return batches


def buckets(max_length: int, density: int = 8) -> list[int]:
    """Returns the lengths that rows are padded to: `density` an octave, multiples of 8.

    Example:
        >>> buckets(100)
        [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100]
        >>> buckets(100, density=2)
        [8, 16, 24, 32, 48, 64, 96, 100]
    """
    found, length = [], 8
    while length < max_length:
        found.append(length)
        length += max(8, 2 ** (length.bit_length() - 1) // density)
    return [*found, max_length]


def default_max_tokens(platform: str) -> int:
    """Returns a device's tokens in a batch: it is busy with them, and they fit."""
    return 1024 if platform == "cpu" else 65_536


def default_compile_tokens(platform: str, num_params: int) -> float:
    """Returns the tokens scored in about the time that compiling a program takes."""
    # A second or two, of a processor's 1e11 FLOP/s or of an accelerator's 1e14.
    return (1e11 if platform == "cpu" else 1e14) / (2 * num_params)


def default_window(platform: str, num_params: int) -> int:
    """Returns how many pairs to sort together, and to save at once."""
    most = 2**36 // num_params if platform == "cpu" else 16_384
    return min(max(most, 512), 16_384)
