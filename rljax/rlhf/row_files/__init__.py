"""Rows of files and of batches: what scoring and generating have in common.

`rewrite` makes a file of rows into another, and goes on with it where it was killed;
what is done with the rows is a `Work`. `batching` puts rows of like length together. May
import `rljax.rlhf.data`.
"""

from rljax.rlhf.row_files.beside import check_paths, settings_before
from rljax.rlhf.row_files.counts import Counts, Progress
from rljax.rlhf.row_files.display import Display
from rljax.rlhf.row_files.fingerprint import model_fingerprint
from rljax.rlhf.row_files.job import Work
from rljax.rlhf.row_files.lines import (
    Reader,
    RowError,
    RowFileError,
    Window,
    bad_line,
    error_line,
    extended_line,
)
from rljax.rlhf.row_files.rewriting import rewrite

__all__ = [
    "Counts", "Display", "Progress", "Reader", "RowError", "RowFileError", "Window",
    "Work", "bad_line", "check_paths", "error_line", "extended_line", "model_fingerprint", "rewrite",
    "settings_before",
]  # fmt: skip
