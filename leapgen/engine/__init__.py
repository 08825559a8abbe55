"""Makes tokens: sequences over a paged KV pool. Knows tensors, pages and random streams; nothing of text or LeaP."""

from leapgen.engine.engine import Engine
from leapgen.engine.memory.sizing import PoolTooSmallError
from leapgen.engine.model.fingerprint import ModelChangedError
from leapgen.engine.model.support import UnsupportedModelError
from leapgen.engine.outcome import Event
from leapgen.engine.sampling.host import NonFiniteLogitsError
from leapgen.engine.sequence import Sequence
from leapgen.engine.stream import Stream

__all__ = ["Engine", "Event", "ModelChangedError", "NonFiniteLogitsError", "PoolTooSmallError", "Sequence", "Stream",
           "UnsupportedModelError"]
