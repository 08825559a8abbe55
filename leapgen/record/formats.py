"""Runs that earlier versions saved.

Format 1 has no ``made_with``. Formats 1 and 2 have settings by other names, keep the protocol's state with the paths, and of
summaries the text alone.
"""

from __future__ import annotations

from typing import Any

from leapgen.options import RENAMED


def upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A saved run of format 1 or 2 as format 3 has it."""
    skipping, shared, paths = [], [], []
    for path in data["paths"]:
        state = dict(path["state"])
        if state.pop("skips_blocks", False):
            skipping.append(path["index"])
        if summary := state.pop("shared_summary", None):
            shared.append({"sender": path["index"], "block": 0, **summary})
        if state:
            state["paused_at"] = "<summarize>" if state.pop("opened_summary", False) else None
        paths.append({**path, "state": state})
    leap = {RENAMED.get(name, name): value for name, value in data.get("leap", {}).items()}
    return {**data, "paths": paths, "leap": leap, "state": {"skipping": skipping, "shared": shared}}
