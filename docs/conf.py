"""How the documentation is built: ``make docs``, offline and strict."""

import builtins
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(Path(__file__).parent / "extensions")]

from leapgen.version import __version__  # noqa: E402

project = "leapgen"
author = "the leapgen authors"
version = release = __version__
html_title = f"leapgen {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
html_theme = "furo"
exclude_patterns = ["build"]
html_show_sourcelink = False

myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_rtype = False  # "[tokens, heads] float32" is no name to be looked up

# Names of this project must resolve. Those of others cannot: nothing is downloaded, so there is no inventory of them.
nitpicky = True
_OTHERS = (*sorted(sys.stdlib_module_names), "torch", "nn", "transformers", "numpy", "np", "rich", "datasets", "triton")
_SHORT = ("Tensor", "Path", "Any", "GraphModule", "Node", "PreTrainedModel", "PreTrainedTokenizerBase", "TrainingArguments")
nitpick_ignore_regex = [
    (r"py:.*", rf"({'|'.join(_OTHERS)})(\..*)?"),
    (r"py:.*", "|".join([*_SHORT, *(name for name in dir(builtins) if name[0] != "_")])),
    (r"py:.*", r"(dict|list|tuple)\[.*|Capture"),  # as autodoc cuts a type that it cannot read
]


def keep_first_line(app, what, name, obj, options, lines):
    """Napoleon takes what stands before the first line's colon for a property's type: an empty comment becomes that line."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def setup(app):
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # before Napoleon's
