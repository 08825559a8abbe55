"""Files that go into a model's folder or repository, so that transformers finds leapgen there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

FOLDER = str(Path(__file__).parent)  # for ``model.generate(custom_generate=FOLDER, trust_remote_code=True)``


def save_custom_generate(folder: str | os.PathLike[str]) -> None:
    """Puts ``custom_generate/`` beside a model: who loads it with ``trust_remote_code=True`` has LeaP as its ``generate``.

    Raises:
        OSError: it cannot be written.
    """
    shutil.copytree(Path(FOLDER) / "custom_generate", Path(folder) / "custom_generate", dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("__pycache__"))
