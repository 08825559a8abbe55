"""Directives whose content is read from the code when the site is built, so that it cannot go stale.

``{settings} leapgen.config.LeapConfig``: a table of a dataclass's fields with type, default and meaning.
``{presets} leapgen.config.LeapConfig``: a table of what the command line's ``--preset`` offers.
``{recipes}``: a table of the recipes of ``leapgen sft``.
``{commands}``: the help of every command of the command line.
``{paper}``: the paper's tables and figures, the command for each, its numbers, and what differs.
``{experiments}``: what ``leapgen experiment`` offers: arms, presets, options.
``{exports}``: the names that ``import leapgen`` gives.
``{modules} leapgen.engine``: every public module of a package, and of those in it, by autodoc.
``{files} leapgen``: the package's own modules only.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx


class Generated(Directive):
    """Parses the lines that ``lines`` makes as if they stood in the page."""

    optional_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        source = f"<{self.name} {' '.join(self.arguments)}>"
        content = StringList([line for line in self.lines(*self.arguments)], source)
        node = nodes.Element()
        self.state.nested_parse(content, self.content_offset, node, match_titles=1)
        return node.children

    def lines(self, *arguments: str) -> Iterator[str]:
        raise NotImplementedError


def named(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(import_module(module), name)


class Settings(Generated):
    required_arguments, optional_arguments = 1, 0

    def lines(self, path: str) -> Iterator[str]:
        config = named(path)
        meanings = self._meanings(config)
        yield "| name | type | default | meaning |"
        yield "|---|---|---|---|"
        for field in dataclasses.fields(config):
            kind = str(field.type).replace("|", "\\|")
            yield f"| `{field.name}` | `{kind}` | `{field.default!r}` | {meanings[field.name]} |"

    @staticmethod
    def _meanings(config: type) -> dict[str, str]:
        """By name, as Markdown; the command line's help reads the same docstring."""
        from leapgen.terminal.options import argument_docs

        return {name: text.replace("|", "\\|") for name, text in argument_docs(config, quote="`").items()}


class Presets(Generated):
    required_arguments, optional_arguments = 1, 0

    def lines(self, path: str) -> Iterator[str]:
        from leapgen.terminal.options import PRESETS

        config = named(path)
        yield "| preset | what it is |"
        yield "|---|---|"
        for name in PRESETS:
            preset = getattr(config, name)
            yield f"| `{config.__name__}.{name}()` | {' '.join(inspect.getdoc(preset).replace('``', '`').split())} |"


class Recipes(Generated):
    optional_arguments = 0

    def lines(self) -> Iterator[str]:
        from leapgen.training.recipe import RECIPES, Recipe

        yield f"| `--recipe` | {' | '.join(f'`{name}`' for name in RECIPES)} |"
        yield "|---" * (1 + len(RECIPES)) + "|"
        for field in dataclasses.fields(Recipe):
            values = [getattr(recipe, field.name) for recipe in RECIPES.values()]
            shown = [", ".join(value) if isinstance(value, tuple) else str(value) for value in values]
            yield f"| {field.name} | {' | '.join(shown)} |"


class Commands(Generated):
    optional_arguments = 0

    def lines(self) -> Iterator[str]:
        from leapgen.terminal.cli import build_parser

        os.environ["COLUMNS"] = "100"  # what argparse wraps at
        parser = build_parser()
        yield from self._help("leapgen", parser)
        (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        for name, command in commands.choices.items():
            yield from self._help(f"leapgen {name}", command)

    @staticmethod
    def _help(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
        yield from (f"## {name}", "", "```text", *parser.format_help().splitlines(), "```", "")


class Paper(Generated):
    optional_arguments = 0

    def lines(self) -> Iterator[str]:
        from leapgen.evaluation.paper import ENTRIES

        yield "| in the paper | what it shows, and how it was made | command: `leapgen ...` | its numbers | what differs |"
        yield "|---|---|---|---|---|"
        for entry in ENTRIES:
            how = f"{entry.shows}. {entry.settings}".strip().rstrip(".") + "."
            yield f"| {entry.where} | {how} | `{entry.command}` | {self._numbers(entry)} | {entry.differs} |"

    @staticmethod
    def _numbers(entry: Any) -> str:
        """Those of the command's own model and problems."""
        words = entry.command.split()
        given = {flag: words[words.index(flag) + 1] for flag in ("--problems", "--model") if flag in words}
        whose, columns = entry.at(given.get("--problems", ""), given.get("--model", ""))
        shown = [f"{name}: " + ", ".join(f"{key} {value:,g}" for key, value in numbers.items())
                 for name, numbers in columns.items()]
        return f"{whose}. {'; '.join(shown)}" if shown else "none in the text"


class Experiments(Generated):
    optional_arguments = 0

    def lines(self) -> Iterator[str]:
        from leapgen.config import LeapConfig
        from leapgen.evaluation.experiments import EXPERIMENTS, Plan
        from leapgen.tasks.base import Task

        def told(values: dict[str, Any]) -> str:
            return ", ".join(f"`--{name.replace('_', '-')} {value}`" for name, value in values.items() if value is not None)

        yield "| name | question | arms | preset | its own options | on mazes |"
        yield "|---|---|---|---|---|---|"
        for name, one in EXPERIMENTS.items():
            plan = Plan(Task("", []), LeapConfig(), one.preset.get("n", 32), one.options, {"leap-t": "", "sft": ""})
            arms = ", ".join(f"`{arm.name}`" for arm in one.arms(plan))
            own = ", ".join(f"`--{option}`" + (f" ({value})" if value is not None else "")
                            for option, value in one.options.items())
            yield (f"| `{name}` | {one.title} ({one.source}) | {arms} | {told(one.preset)} | {own} | "
                   f"{told(one.by_task.get('maze', {}))} |")


class Exports(Generated):
    optional_arguments = 0

    def lines(self) -> Iterator[str]:
        import leapgen

        yield "| name | what it is |"
        yield "|---|---|"
        for name in leapgen.__all__:
            if not name.startswith("_"):
                value = getattr(leapgen, name)
                first = re.split(r"(?<=\.)\s", inspect.getdoc(value).split("\n\n")[0])[0].replace("``", "`")
                yield f"| {{py:class}}`{name} <{value.__module__}.{name}>` | {' '.join(first.split())} |"


class Modules(Generated):
    required_arguments, optional_arguments = 1, 0

    @staticmethod
    def _names(path: str) -> list[str]:
        inside = pkgutil.walk_packages(getattr(import_module(path), "__path__", ()), f"{path}.")
        return [path, *(module.name for module in inside)]

    def lines(self, path: str) -> Iterator[str]:
        for name in self._names(path):
            if "._" in name:
                continue
            try:
                module = import_module(name)
            except ModuleNotFoundError as error:  # Triton, where there is none for the system
                yield from (f"## {name}", "", f"Not shown: `{error.name}` is not installed where this was built.", "")
                continue
            if module.__doc__:  # a package's own names are shown where they are made
                yield from (f"## {name}", "", "```{eval-rst}", f".. automodule:: {name}",
                            "   :no-members:" * hasattr(module, "__path__"), "```", "")


class Files(Modules):
    @staticmethod
    def _names(path: str) -> list[str]:
        inside = pkgutil.iter_modules(import_module(path).__path__, f"{path}.")
        return [module.name for module in inside if not module.ispkg]


def setup(app: Sphinx) -> dict[str, Any]:
    for directive in (Settings, Presets, Recipes, Commands, Paper, Experiments, Exports, Modules, Files):
        app.add_directive(directive.__name__.lower(), directive)
    return {"parallel_read_safe": True}
