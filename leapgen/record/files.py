"""Files that are whole or untouched, whatever happens while they are written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any


def save_json(data: Any, path: str | os.PathLike[str]) -> None:
    """As ``save_text``."""
    save_text(json.dumps(data, ensure_ascii=False), path)  # at once: json.dump takes several times as long


def save_text(text: str, path: str | os.PathLike[str]) -> None:
    """Writes beside the target and renames, so that the target is whole or untouched, also where the machine stops.

    A link stays one: what it leads to is written.

    Raises:
        OSError: the file cannot be written; or the path is neither free nor a regular file (a device, a folder).
    """
    path = Path(os.path.realpath(path))
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a link here leads around in a circle
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
