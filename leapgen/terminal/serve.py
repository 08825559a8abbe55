"""``leapgen serve``: an OpenAI-compatible server."""

from __future__ import annotations

import argparse
from pathlib import Path

from leapgen.config import EngineConfig, LeapConfig, SamplingConfig
from leapgen.demo import MAZE_MODELS
from leapgen.integrations.server.config import ServerConfig
from leapgen.terminal.loading import MODEL_HELP, add_loading, check_dtype, engine_config, load, read_prompts
from leapgen.terminal.options import Commands, add_preset, add_settings, given, leap_config, sampling_options
from leapgen.terminal.run import SAMPLING_NOTE
from leapgen.terminal.screen import Screen
from leapgen.terminal.signals import Signals

MISSING = "leapgen serve needs {name}, which is not installed. Install what it needs with\n  pip install 'leapgen[serve]'"


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "serve", help="serve many requests, by OpenAI's interface", parents=[common], usage="leapgen serve [OPTION ...]",
        description="Serves chat and text completions by OpenAI's interface. Requests share one engine, and each gets the "
                    "tokens it would get alone. The options of protocol and sampling are what a request starts from.")
    parser.add_argument("--model", required=True, metavar="NAME", help=MODEL_HELP)
    add_loading(parser)
    parser.add_argument("--prompts", type=Path, metavar="FILE",
                        help="the protocol's sentences: JSON with fields of leapgen.PromptSet, or a published prompts.py")
    add_settings(parser, ServerConfig)
    add_preset(parser)
    add_settings(parser, LeapConfig)
    add_settings(parser, SamplingConfig, note=SAMPLING_NOTE)
    add_settings(parser, EngineConfig)
    parser.set_defaults(command=serve)


def serve(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    config, engine = ServerConfig(**given(options, ServerConfig)), engine_config(options)
    leap, sampling = leap_config(options, MAZE_MODELS.get(options.model)), sampling_options(options)
    prompts = read_prompts(options.prompts)
    try:
        from leapgen.integrations.server.arguments import Served
        from leapgen.integrations.server.serving import Server, listen
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING.format(name=error.name)) from error
    with listen(config.host, config.port) as socket:  # refused before the model is loaded, which takes longer
        generator = load(options.model, screen, dtype=options.dtype, device_map=options.device_map, engine=engine,
                         prompts=prompts)
        name = config.served_name or Path(options.model).name
        server = Server(Served(generator, name, leap, sampling, config),
                        lambda address: screen.say("serving ", (name, "bold"), f" at {address}/v1"))
        with signals.stopping(server):
            server.run([socket])
    if signals.received:
        screen.say(f"stopped by {signals.name}")
        return signals.status
    screen.error("the server has ended; the log above says why.")
    return 1
