"""What Orbax writes into a checkpoint: arrays, their description, and checksums.

Imported where a checkpoint is written only, since Orbax is slow to import.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from rljax.training.checkpoint import ARRAYS, CHECKSUMS, DESCRIPTION, checksums
from rljax.training.files import sync


class ChecksumHandler(ocp.CheckpointHandler):
    """Writes a state and its description, and the SHA-256 of every file.

    Orbax calls `finalize` on one host, before the folder gets its final name.
    """

    def __init__(self) -> None:
        self._arrays = ocp.StandardCheckpointHandler()

    def save(self, directory: Any, args: "ChecksumSave") -> None:
        """Writes the arrays, and from the primary host the description."""
        arrays = directory / ARRAYS
        if ocp.multihost.is_primary_host(0):
            arrays.mkdir()
            text = json.dumps(args.description)
            (directory / DESCRIPTION).write_text(text, encoding="utf-8")
        ocp.multihost.sync_global_processes("rljax:checkpoint_folder")
        self._arrays.save(arrays, args=ocp.args.StandardSave(args.state))

    def finalize(self, directory: Any) -> None:
        """Completes the arrays, writes the checksums, and puts all on the disk."""
        self._arrays.finalize(directory / ARRAYS)
        folder = Path(directory)
        sums = json.dumps(checksums(folder))
        (folder / CHECKSUMS).write_text(sums, encoding="utf-8")
        for path in [*folder.rglob("*"), folder]:
            sync(path)

    def restore(self, directory: Any, args: Any = None) -> Any:
        """Not used: `rljax.training.checkpoint.restore` reads the files."""
        raise NotImplementedError("use rljax.training.checkpoint.restore")

    def close(self) -> None:
        """Releases Orbax's threads."""
        self._arrays.close()


@ocp.args.register_with_handler(ChecksumHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class ChecksumSave(ocp.args.CheckpointArgs):
    """What `ChecksumHandler` writes: a pytree of arrays, and JSON."""

    state: Any
    description: dict[str, Any]
