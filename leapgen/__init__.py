"""leapgen: Learning from Peers (LeaP) on ordinary transformers models, every KV entry computed once."""

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig
from leapgen.engine import Engine, NonFiniteLogitsError, PoolTooSmallError, UnsupportedModelError
from leapgen.events import BlockEvent, CutEvent, FinishEvent, OutputEvent, SegmentEvent, TokenEvent
from leapgen.generator import LeapGenerator
from leapgen.output import BlockRecord, LeapOutput, Ledger, PathOutput, Segment
from leapgen.protocol.prompts import PromptSet
from leapgen.session import GenerationFailed, GenerationInterrupted, Run

__version__ = "0.1.0"

__all__ = [
    "BlockEvent", "BlockRecord", "CutEvent", "Engine", "EngineConfig", "FinishEvent", "GenerationFailed",
    "GenerationInterrupted", "LeapConfig", "LeapGenerator", "LeapOutput", "Ledger", "NonFiniteLogitsError", "OutputEvent",
    "PathOutput", "PoolTooSmallError", "PromptSet", "Run", "SamplingConfig", "Segment", "SegmentEvent", "TokenEvent",
    "UnsupportedModelError",
]
