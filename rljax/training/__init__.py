"""Training: the loop, populations, and all that a run keeps on disk.

`train` takes compiled chunks of updates and does host work between them; `population`
trains many members in one program. `RunFolder` and `RunLogger` make a run that can be
killed at any moment and resumed bit for bit. May import `algorithms` and the layers below
it. Orbax, rich and tensorboardX are imported where they are needed only.
"""

from rljax.training.checkpoint import CheckpointError
from rljax.training.files import RunError
from rljax.training.loggers import LogEntry, Logger, log_line
from rljax.training.loop import train
from rljax.training.populations import decay_over, member, population, replicate, stack
from rljax.training.run_folder import RunFolder, RunOptions, UsageError
from rljax.training.run_logger import RunLogger

__all__ = [
    "CheckpointError",
    "LogEntry",
    "Logger",
    "RunError",
    "RunFolder",
    "RunLogger",
    "RunOptions",
    "UsageError",
    "decay_over",
    "log_line",
    "member",
    "population",
    "replicate",
    "stack",
    "train",
]
