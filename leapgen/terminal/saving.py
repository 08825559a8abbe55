"""Where a command writes: nothing is overwritten unless told so, and a run is on disk from its start on."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path


def add_saving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--save", type=Path, metavar="PATH",
                        help="where the run is saved, from its start on: a file, or for --input a folder with a file for "
                             "each question, 0.json, 1.json, ... (default: run.json or runs; if there is one already, "
                             "run-2.json, ...)")
    parser.add_argument("--overwrite", action="store_true", help="write over what is at --save")


def check_file(path: Path, option: str, overwrite: bool = False) -> None:
    """Before any work: what cannot be written, or would be lost by it, is refused.

    Raises:
        ValueError: says why.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path}: it is a folder.")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"{option} {path}: its folder does not exist.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{option} {path}: it is no regular file.")
    if path.exists() and not overwrite:
        raise ValueError(f"{option} {path}: it exists. Choose another name, or --overwrite it.")
    if not os.access(path if path.exists() else path.resolve().parent, os.W_OK):
        raise ValueError(f"{option} {path}: it cannot be written.")


def check_folder(path: Path, option: str, overwrite: bool = False) -> None:
    """The same for a folder, which may exist if it is empty."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path}: it is a file; runs of several questions need a folder.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{option} {path}: its folder does not exist.")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"{option} {path}: it is a folder with something in it. Choose another name, or --overwrite it.")


class Target:
    """Where a run, or the runs of several questions, are to be saved.

    ``check`` comes before any work; ``take`` makes file or folder when the run begins, so that another process cannot get
    the same; ``give_back`` removes them if nothing was saved.
    """

    def __init__(self, path: Path | None, several: bool = False, overwrite: bool = False) -> None:
        self._default = "runs" if several else "run.json"
        self.path = path or Path(self._default)
        self._several, self._overwrite = several, overwrite
        self._free = path is None and not overwrite  # any free name will do
        self._made: list[Path] = []

    def check(self) -> None:
        """Raises:
            ValueError: the path is not allowed.
        """
        if not self._free:
            (check_folder if self._several else check_file)(self.path, "--save", self._overwrite)

    def take(self, questions: int) -> list[Path]:
        """The files, one for each question.

        Raises:
            ValueError: something is there by now. OSError: they cannot be made.
        """
        self.check()
        names = _names(self._default) if self._free else [self.path]
        for path in names:
            try:
                self._make(path)
            except FileExistsError:
                if self._free:
                    continue
                raise ValueError(f"--save {path}: it exists by now. Choose another name, or --overwrite it.") from None
            self.path, self._free = path, False
            return [path / f"{question}.json" for question in range(questions)] if self._several else [path]
        raise AssertionError("there is no last name")

    def _make(self, path: Path) -> None:
        if self._several:
            if self._free or not path.is_dir():
                path.mkdir()
                self._made.append(path)
            else:
                for file in path.glob("[0-9]*.json"):  # of an earlier run, perhaps of more questions
                    file.unlink()
        elif not (self._overwrite and path.exists()):
            if path.is_symlink():
                path = path.resolve()
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            self._made.append(path)

    def give_back(self) -> None:
        for path in self._made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
            elif path.is_file() and path.stat().st_size == 0:
                path.unlink()


def _names(name: str) -> Iterator[Path]:
    """``run.json``, ``run-2.json``, ``run-3.json``, ..."""
    stem, suffix = os.path.splitext(name)
    yield Path(name)
    for number in count(2):
        yield Path(f"{stem}-{number}{suffix}")
