"""leapgen: Learning from Peers (LeaP) on ordinary transformers models, every KV entry computed once."""

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig
from leapgen.engine import Engine, ModelChangedError, NonFiniteLogitsError, PoolTooSmallError, UnsupportedModelError
from leapgen.generator import GenerationFailed, GenerationInterrupted, LeapGenerator
from leapgen.output import (
    BlockEvent,
    BlockRecord,
    FinishEvent,
    LeapOutput,
    Ledger,
    OutputEvent,
    PathOutput,
    Segment,
    TokenEvent,
)
from leapgen.protocol.prompts import PromptSet

__version__ = "0.1.0"

__all__ = [
    "BlockEvent", "BlockRecord", "Engine", "EngineConfig", "FinishEvent", "GenerationFailed", "GenerationInterrupted",
    "LeapConfig", "LeapGenerator", "LeapOutput", "Ledger", "ModelChangedError", "NonFiniteLogitsError", "OutputEvent",
    "PathOutput", "PoolTooSmallError", "PromptSet", "SamplingConfig", "Segment", "TokenEvent", "UnsupportedModelError",
]
