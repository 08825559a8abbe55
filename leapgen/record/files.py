"""Files that are whole or untouched, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any


def save_json(data: Any, path: str | os.PathLike[str]) -> None:
    """Writes JSON as ``save_bytes`` writes."""
    save_bytes(json.dumps(data, ensure_ascii=False).encode(), path)  # at once: json.dump takes several times as long


def save_bytes(data: bytes, path: str | os.PathLike[str]) -> None:
    """Writes beside the target and renames, so that the target is whole or untouched, also where the machine stops.

    A link stays one: what it leads to is written. Several processes may write to one target; one of them is last.

    Raises:
        OSError: the file cannot be written; or the path is neither free nor a regular file (a device, a folder).
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a link here leads around in a circle
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
