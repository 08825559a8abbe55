"""A generator by the name a user gives, and one line that says why where there is none."""

from __future__ import annotations

import argparse
import logging
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from leapgen.config import EngineConfig
from leapgen.demo import load_smollm2, quiet_loading
from leapgen.models import SMOLLM2, bundled_model, bundled_models
from leapgen.protocol.prompts import PromptSet
from leapgen.terminal.options import given
from leapgen.terminal.screen import Screen

if TYPE_CHECKING:
    from leapgen.generator import LeapGenerator

DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
MODEL_HELP = f"a folder or hub name that transformers can load, or {', '.join([*bundled_models(), SMOLLM2])}"
log = logging.getLogger(__name__)


def add_dtype(parser: argparse.ArgumentParser, default: str | None, said: str) -> None:
    parser.add_argument("--dtype", default=default, help=f"of the weights: {', '.join(DTYPES)} (default: {said})")


def add_loading(parser: argparse.ArgumentParser, dtype: str | None = "auto", said: str = "auto, as the model says") -> None:
    add_dtype(parser, dtype, said)
    parser.add_argument("--device-map", metavar="MAP",
                        help="where the model goes, as transformers' from_pretrained takes it: auto, cuda, cpu, ...")


def check_dtype(dtype: str | None) -> None:
    """Raises:
        ValueError: transformers would not know it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype} is not allowed: it must be one of {', '.join(DTYPES)}.")


def read_prompts(file: Path | None) -> PromptSet | None:
    return None if file is None else PromptSet.load(file)


def engine_config(options: argparse.Namespace) -> EngineConfig:
    """Raises:
        ValueError: a value that is not allowed.
    """
    return EngineConfig(**given(options, EngineConfig))


def local_device(device_map: str | None) -> str | None:
    """``cuda`` as the device of this process, where torchrun has started several on a machine and numbered them."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device_map == "cuda" and "LOCAL_RANK" in os.environ else device_map


def load(name: str, screen: Screen, *, dtype: str = "auto", device_map: str | None = None,
         engine: EngineConfig | None = None, prompts: PromptSet | None = None) -> LeapGenerator:
    """Loads a generator.

    Raises:
        ValueError: the model cannot be loaded or served; one line says why. ModuleNotFoundError: SmolLM2 is not installed.
    """
    local = name == SMOLLM2 or Path(name).is_dir() or bundled_model(name) is not None
    if not local and (name.startswith((".", "~", os.sep)) or name.count("/") > 1):
        raise ValueError(f"--model {name}: there is no such folder.")
    options = {"device_map": device_map} if device_map else {}
    with screen.status(f"loading {name}"):
        import torch  # noqa: F401  seconds, as transformers takes them
        import transformers  # noqa: F401

        screen.adopt("torch", "transformers", "huggingface_hub")
        try:
            if name == SMOLLM2:
                return load_smollm2("float32" if dtype == "auto" else dtype, engine, prompts=prompts, **options)
            from leapgen.generator import LeapGenerator

            with quiet_loading() if local else nullcontext():  # bars of a download are welcome
                return LeapGenerator.from_pretrained(name, engine=engine, prompts=prompts, dtype=dtype, **options)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # whatever transformers, the hub's client or torch raise, the user is to have one line
            log.info("loading failed", exc_info=True)
            given = f" with --device-map {device_map}" if device_map else ""
            raise ValueError(f"--model {name} cannot be loaded{given}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split("\n\n")[0].split())
    return f"{type(error).__name__}: {text}" if not isinstance(error, (OSError, ValueError)) else text
