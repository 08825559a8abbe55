"""What a server allows, and where it listens."""

from __future__ import annotations

from dataclasses import dataclass

from leapgen.options import named_options
from leapgen.validation import is_int, is_number, require, settle


@named_options
@dataclass(frozen=True)
class ServerConfig:
    """Where a server listens, what a request may ask for, and how many go on at a time.

    Args:
        host: address to listen on; 127.0.0.1 is reached from this machine only.
        port: to listen on; 0 takes a free one.
        api_key: what requests to /v1 must show (``Authorization: Bearer KEY``, or as the password of a browser's prompt);
            without one, the environment's LEAPGEN_API_KEY; without that, anybody is served.
        served_name: the model's name in requests; without one, the name it was loaded by.
        paths: paths of a request that does not say how many.
        max_paths: most paths that a request may ask for, over all its prompts.
        max_tokens: most tokens that a request may ask for, for a path or for one of its parts.
        max_body_bytes: largest body of a request.
        running: requests that are on the engine at a time. They share the pool of KV pages; a request waits while those
            before it may need them.
        waiting: requests that may wait; one more is refused (429).
        timeout: seconds after which a request ends with what it has; without one, when its paths end.
        grace: seconds that running requests may take to end once the server is asked to stop; what has not ended then is
            saved.
        save: folder for the runs that a stop interrupts; ``leapgen resume`` goes on with them.
        checkpoint: save each run from its start on, at every block and every minute, so that a killed server loses a block
            at most; the file goes when the run has ended.
        keep_runs: newest runs that can be looked at by their id.

    Raises:
        ValueError: a value outside its range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    served_name: str | None = None
    paths: int = 16
    max_paths: int = 64
    max_tokens: int = 32768
    max_body_bytes: int = 1 << 20
    running: int = 16
    waiting: int = 64
    timeout: float | None = None
    grace: float = 30.0
    save: str = "runs"
    checkpoint: bool = False
    keep_runs: int = 100

    def __post_init__(self) -> None:
        settle(self)
        require(is_int(self.port, 0) and self.port < 1 << 16, "port", self.port, "an integer in 0 .. 65535")
        for name in ("paths", "max_paths", "max_tokens", "max_body_bytes", "running"):
            require(is_int(getattr(self, name), 1), name, getattr(self, name), "an integer >= 1")
        for name in ("waiting", "keep_runs"):
            require(is_int(getattr(self, name), 0), name, getattr(self, name), "an integer >= 0")
        require(self.paths <= self.max_paths, "paths", self.paths, f"at most max_paths={self.max_paths}")
        require(self.timeout is None or (is_number(self.timeout) and self.timeout > 0), "timeout", self.timeout,
                "a number of seconds > 0, or None for no limit")
        require(is_number(self.grace) and self.grace >= 0, "grace", self.grace, "a number of seconds >= 0")
        require(self.api_key is None or self.api_key.strip() == self.api_key != "", "api_key", "...",
                "without spaces around it, and not empty")
