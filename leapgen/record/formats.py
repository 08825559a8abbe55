"""Runs that earlier versions saved.

Format 1 has no ``made_with``. Formats 1 and 2 have settings by other names, keep the protocol's state with the paths, and of
summaries the text alone. Up to format 3 the tag that closes a summary cut short is a ``forced`` segment, as if it asked for
an answer.
"""

from __future__ import annotations

from typing import Any

from leapgen.options import RENAMED


def upgraded(data: dict[str, Any], version: int) -> dict[str, Any]:
    """A saved run of an earlier format as the newest has it."""
    if version < 3:
        data = _protocol_apart(data)
    if version < 4:
        paths = [{**path, "segments": [_of_its_summary(segment) for segment in path["segments"]]} for path in data["paths"]]
        data = {**data, "paths": paths}
    return data


def _of_its_summary(segment: dict[str, Any]) -> dict[str, Any]:
    closes = segment["kind"] == "forced" and segment["block"] is not None
    return {**segment, "kind": "closing"} if closes else segment


def _protocol_apart(data: dict[str, Any]) -> dict[str, Any]:
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
