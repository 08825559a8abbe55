"""How the documentation is built: ``make docs``, offline and strict."""

import pkgutil
import sys
from pathlib import Path
from types import FunctionType, ModuleType

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

# A name must be there. One of this project must have a place in these pages, too.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r".*\[.*"),  # as autodoc cuts a type that it cannot read
    (r"py:class", r"PreTrained(Model|Tokenizer|FeatureExtractor)|Base(Image|Video)Processor|ProcessorMixin"),  # a pipeline's
]


def without_a_page(app, env, node, contnode):
    """Nothing is downloaded, so names of others are only seen to exist; and so are our type aliases."""
    target = node["reftarget"]
    for name in (target, f"builtins.{target}", f"{node.get('py:module')}.{target}"):
        try:
            found = pkgutil.resolve_name(name)
        except (ImportError, AttributeError, ValueError):
            continue
        ours = str(getattr(found, "__module__", name)).startswith("leapgen")
        if not ours or not isinstance(found, (type, FunctionType, ModuleType)):
            return contnode
    return None


def keep_first_line(app, what, name, obj, options, lines):
    """Napoleon takes what stands before the first line's colon for a property's type: an empty comment becomes that line."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def setup(app):
    app.connect("autodoc-process-docstring", keep_first_line, priority=400)  # before Napoleon's
    app.connect("missing-reference", without_a_page)
