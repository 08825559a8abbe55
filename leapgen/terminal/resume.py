"""``leapgen resume``: goes on with a run that was stopped, from the file that holds it, and writes back to it."""

from __future__ import annotations

import argparse
from pathlib import Path

from leapgen.config import EngineConfig
from leapgen.record.run import LeapOutput
from leapgen.terminal.loading import MODEL_HELP, add_loading, check_dtype, load
from leapgen.terminal.options import Commands, add_settings, given
from leapgen.terminal.running import conclude, follow
from leapgen.terminal.screen import Screen
from leapgen.terminal.show import check_paths, run_files
from leapgen.terminal.signals import Signals


def add_parser(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = commands.add_parser(
        "resume", help="go on with an interrupted run", parents=[common], usage="leapgen resume [OPTION ...] FILE",
        description="Goes on with an interrupted run, with the model, the settings and the sentences it was made with, and "
                    "writes back to its file. The tokens are those of a run never interrupted.")
    parser.add_argument("file", type=Path, metavar="FILE", help="the saved run, or the folder of a run of many questions")
    parser.add_argument("--model", metavar="NAME", help=f"{MODEL_HELP} (default: the one the run was made with)")
    add_loading(parser, None, "as in the run")
    parser.add_argument("--no-check", action="store_true",
                        help="go on even if model, dtype or context are not those that made the run")
    parser.add_argument("--path", type=int, action="append", default=[], metavar="N",
                        help="also print this path's whole text at the end, counted from 0; repeatable")
    add_settings(parser, EngineConfig, {name: None for name in EngineConfig.__dataclass_fields__},
                 "fields of leapgen.EngineConfig (default: as in the run)")
    parser.set_defaults(command=resume)


def resume(options: argparse.Namespace, screen: Screen, signals: Signals) -> int:
    check_dtype(options.dtype)
    several = options.file.is_dir()
    files = run_files(options.file) if several else [options.file]
    outputs = [LeapOutput.load(file) for file in files]
    if options.path and several:
        raise ValueError("--path goes with one question; leapgen show prints a path of any of the files.")
    check_paths(options.path, len(outputs[0].paths))
    open_files = [file for file, output in zip(files, outputs, strict=True) if not output.finished]
    unfinished = [output for output in outputs if not output.finished]
    if not unfinished:
        screen.say(f"{options.file}: the run is finished; there is nothing to resume.")
        return 0
    made_with = unfinished[0].made_with
    name = options.model or unfinished[0].model
    if not name:
        raise ValueError("the run does not say which model made it; give --model.")
    engine = EngineConfig(**{**made_with.get("engine", {}), **given(options, EngineConfig)})
    device_map = options.device_map or made_with.get("device_map")
    generator = load(name, screen, dtype=options.dtype or made_with.get("dtype", "auto"), device_map=device_map,
                     engine=engine)
    try:
        stream = generator.resume_stream(unfinished if several else unfinished[0], check=not options.no_check)
    except ValueError as error:
        raise ValueError(str(error).replace("resume(output, check=False)", "--no-check")) from error
    done, status = follow(stream, open_files, screen, signals, {"device_map": device_map})
    resumed = dict(zip(open_files, done, strict=True))
    conclude([resumed.get(file, output) for file, output in zip(files, outputs, strict=True)], files, options.file, options,
             screen, signals)
    return status
