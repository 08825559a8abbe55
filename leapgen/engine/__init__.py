"""Makes tokens: sequences over a paged KV pool. Knows tensors, pages and random streams; nothing of text or LeaP."""

from leapgen.engine.engine import Engine, Event
from leapgen.engine.fingerprint import ModelChangedError
from leapgen.engine.sampling import NonFiniteLogitsError
from leapgen.engine.scheduler import PoolTooSmallError
from leapgen.engine.sequence import Sequence
from leapgen.engine.stream import Stream
from leapgen.engine.support import UnsupportedModelError

__all__ = ["Engine", "Event", "ModelChangedError", "NonFiniteLogitsError", "PoolTooSmallError", "Sequence", "Stream",
           "UnsupportedModelError"]
