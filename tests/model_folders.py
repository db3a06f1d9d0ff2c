"""Folders of models, changed for a test."""

import json


def change_config(folder, **changes):
    """Writes other values into a folder's config.json, and returns the folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder
