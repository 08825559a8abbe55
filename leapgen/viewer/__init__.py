"""One self-contained HTML page for a run or a whole study: no server, no network, nothing to install."""

from leapgen.viewer.page import page
from leapgen.viewer.run import run_view

__all__ = ["page", "run_view"]
