"""What users can rely on: the names that leapgen gives, how they are called, and what importing it costs.

``public.txt`` holds all of it. ``python tests/test_public.py`` writes it anew.
"""

import difflib
import inspect
import subprocess
import sys
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pytest
from sample_output import sample

import leapgen

FILE = Path(__file__).with_name("public.txt")
MODULES = ("leapgen.answers", "leapgen.models", "leapgen.stopping")  # that docstrings send users to
WIDTH = 125


def public():
    """Every public name with its signature, classes with their methods and properties."""
    lines = [line for name in leapgen.__all__ if name != "__version__"
             for line in described(f"leapgen.{name}", getattr(leapgen, name))]
    for module in map(import_module, MODULES):
        for name, value in sorted(vars(module).items()):
            if not name.startswith("_") and home(value).startswith(module.__name__):
                lines += described(f"{module.__name__}.{name}", value)
    return "\n".join(lines) + "\n"


def home(value):
    return getattr(value, "__module__", None) or ""


def described(name, value):
    if not inspect.isclass(value):
        return called(name, value)
    members = [line for attribute in sorted(dir(value)) if not attribute.startswith("_")
               for line in described_member(value, attribute)]
    return [*called(name, value), *(f"    {line}" for line in members)]


def described_member(owner, name):
    home = next(kind for kind in owner.__mro__ if name in vars(kind))
    member = vars(home)[name]
    if not home.__module__.startswith("leapgen") or name in getattr(owner, "__dataclass_fields__", {}):
        return []
    if isinstance(member, (property, cached_property)):
        getter = member.fget if isinstance(member, property) else member.func
        return [f".{name}: {annotation(inspect.signature(getter).return_annotation)}"]
    if inspect.isroutine(member) or isinstance(member, (classmethod, staticmethod)):
        return called(f".{name}", getattr(owner, name))
    return [f".{name}"]


def called(name, function):
    """A call as it is written; one argument a line where a line does not hold them all."""
    if getattr(function, "_is_protocol", False):  # nobody calls it
        return [name]
    try:
        signature = inspect.signature(function)
    except ValueError:  # an exception without a constructor of its own
        return [name]
    arguments, by_name = [], False
    for parameter in signature.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not by_name:
            arguments.append("*")
        by_name |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        arguments.append(f"{stars}{parameter.name}: {annotation(parameter.annotation)}{default(parameter)}")
    result = "" if inspect.isclass(function) else f" -> {annotation(signature.return_annotation)}"
    line = f"{name}({', '.join(arguments)}){result}"
    return [line] if len(line) <= WIDTH else [f"{name}(", *(f"    {argument}," for argument in arguments), f"){result}"]


def default(parameter):
    if parameter.default is parameter.empty:
        return ""
    plain = parameter.default is None or isinstance(parameter.default, (bool, int, float, str, tuple))
    return f" = {parameter.default!r}" if plain and len(repr(parameter.default)) <= 40 else " = ..."


def annotation(value):
    return value if isinstance(value, str) else inspect.formatannotation(value)


def test_what_users_call_is_what_it_was():
    """Would catch: a public name, argument, default or result type that changed without anybody meaning it."""
    before, now = FILE.read_text(encoding="utf-8"), public()
    changes = "\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), "before", "now", lineterm="", n=3))
    if changes:
        pytest.fail(f"what users can call has changed:\n{changes}\nIf that is meant, run `python {FILE.parent.name}/"
                    f"{Path(__file__).name}` to write {FILE.name} anew, and give a renamed setting its entry in "
                    "leapgen.options.RENAMED.", pytrace=False)


def test_every_exported_name_is_there_and_no_other():
    """Would catch: a name in ``__all__`` that no module has, or one that only editors see."""
    for name in leapgen.__all__:
        assert getattr(leapgen, name) is not None and name in dir(leapgen)
    with pytest.raises(AttributeError, match="Leapgenerator"):
        leapgen.Leapgenerator  # noqa: B018
    assert leapgen.LeapOutput is leapgen.record.run.LeapOutput


def test_the_version_is_said_once():
    """Would catch: a package that is installed as another version than it says it is."""
    setup = Path(leapgen.__file__).parents[1] / "setup.py"
    printed = subprocess.run([sys.executable, str(setup), "--version"], capture_output=True, text=True, cwd=setup.parent)
    assert printed.stdout.split()[-1] == leapgen.__version__ and leapgen.__version__ not in setup.read_text()


def test_help_show_and_import_need_neither_torch_nor_transformers(tmp_path):
    """Would catch: seconds of waiting for ``leapgen --help``, and torch needed to read a JSON file."""
    sample().save(tmp_path / "run.json")
    code = f"""
import sys, contextlib, io
import leapgen, leapgen.models
from leapgen.terminal.cli import main
assert leapgen.models.bundled_models() and leapgen.__version__ and "LeapGenerator" in dir(leapgen)
for arguments in (["--help"], ["run", "--help"], ["demo", "--help"], ["--version"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
with contextlib.redirect_stdout(io.StringIO()) as shown:
    assert main(["show", {str(tmp_path / "run.json")!r}]) == 0
assert "majority" in shown.getvalue()
assert leapgen.LeapOutput.load({str(tmp_path / "run.json")!r}).finished and leapgen.EngineConfig().page_size
assert leapgen.GenerationFailed and leapgen.BlockEvent
print([name for name in ("torch", "transformers", "accelerate", "numpy", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


if __name__ == "__main__":
    FILE.write_text(public(), encoding="utf-8")
