"""leapgen: Learning from Peers (LeaP) on ordinary transformers models, every KV entry computed once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from leapgen.version import __version__

if TYPE_CHECKING:  # names are imported when they are first asked for: torch and transformers take seconds
    from leapgen.config import EngineConfig, LeapConfig, PathConfig, SamplingConfig
    from leapgen.engine import Engine, ModelChangedError, NonFiniteLogitsError, PoolTooSmallError, UnsupportedModelError
    from leapgen.failures import GenerationFailed, GenerationInterrupted
    from leapgen.generator import LeapGenerator
    from leapgen.protocol.prompts import PromptSet
    from leapgen.record.events import BlockEvent, CutEvent, FinishEvent, OutputEvent, SegmentEvent, TokenEvent
    from leapgen.record.ledger import Ledger
    from leapgen.record.run import BlockRecord, LeapOutput, PathOutput, Segment
    from leapgen.session import Run

__all__ = [
    "BlockEvent", "BlockRecord", "CutEvent", "Engine", "EngineConfig", "FinishEvent", "GenerationFailed",
    "GenerationInterrupted", "LeapConfig", "LeapGenerator", "LeapOutput", "Ledger", "ModelChangedError",
    "NonFiniteLogitsError", "OutputEvent", "PathConfig", "PathOutput", "PoolTooSmallError", "PromptSet", "Run",
    "SamplingConfig", "Segment", "SegmentEvent", "TokenEvent", "UnsupportedModelError", "__version__",
]

_MODULES = {
    "leapgen.config": ("EngineConfig", "LeapConfig", "PathConfig", "SamplingConfig"),
    "leapgen.engine": ("Engine", "ModelChangedError", "NonFiniteLogitsError", "PoolTooSmallError", "UnsupportedModelError"),
    "leapgen.failures": ("GenerationFailed", "GenerationInterrupted"),
    "leapgen.record.events": ("BlockEvent", "CutEvent", "FinishEvent", "OutputEvent", "SegmentEvent", "TokenEvent"),
    "leapgen.generator": ("LeapGenerator",),
    "leapgen.record.ledger": ("Ledger",),
    "leapgen.record.run": ("BlockRecord", "LeapOutput", "PathOutput", "Segment"),
    "leapgen.protocol.prompts": ("PromptSet",),
    "leapgen.session": ("Run",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
