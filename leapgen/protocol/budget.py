"""Whether a run can fit its context at all."""

from __future__ import annotations

from leapgen.config import LeapConfig
from leapgen.engine import Engine


def check_room(leap: LeapConfig, prompt: int, beginning: int, answer: int, frame: int, engine: Engine) -> None:
    """Refuses what could never fit.

    Args:
        prompt, beginning: tokens of the prompt, and of what the paths go on from.
        answer: tokens kept for a forced answer; frame: tokens around a summary at most.

    Raises:
        ValueError: no token fits after the prompt, or no block that was asked for can be held; says what to change.
    """
    context, held = engine.context_length, engine.context
    if prompt + beginning + answer >= context:
        begun = f" and the beginning {beginning}" if beginning else ""
        raise ValueError(f"the prompt is {prompt} tokens long{begun} and {answer} are kept for a forced answer, but {held}. "
                         "Use a shorter prompt, fewer forced_answer_tokens or force_answer=False.")
    if leap.max_blocks == 0 or leap.blocks == ():
        return
    intervals = beginning // leap.interval + 1 + (leap.blocks[0] if leap.blocks else 0)
    if not leap.communicates or intervals * leap.interval >= leap.max_new_tokens:
        begun = f" after a beginning of {beginning}" if beginning else ""
        raise ValueError(f"no LeaP block would be held: with interval={leap.interval} and blocks={leap.blocks} none comes "
                         f"before max_new_tokens={leap.max_new_tokens}{begun}. Use a smaller interval or an earlier one of "
                         "blocks, or leap=False for independent paths.")
    needed = prompt + intervals * leap.interval + frame + leap.summary_tokens + answer
    if needed >= context:
        times = f"{intervals} x " if intervals > 1 else ""
        raise ValueError(f"no LeaP block fits: prompt ({prompt}) + {times}interval ({leap.interval}) + trigger and tags "
                         f"({frame}) + summary_tokens ({leap.summary_tokens}) + forced answer ({answer}) is {needed} "
                         f"tokens, but {held}. Use a smaller interval or summary_tokens, or leap=False for independent "
                         "paths.")
