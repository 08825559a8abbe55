"""Whether a run can fit its context at all, and what it may take of the KV pool."""

from __future__ import annotations

from leapgen.config import LeapConfig
from leapgen.protocol.speaker import Speaker


def check_prompt(speaker: Speaker, beginning: int) -> None:
    """Refuses a prompt after which no token fits.

    Args:
        beginning: tokens that the paths go on from.

    Raises:
        ValueError: says what does not fit, and what to change.
    """
    prompt, answer = len(speaker.prompt), speaker.reserved_positions
    if prompt + beginning + answer >= speaker.engine.context_length:
        begun = f" and the beginning {beginning}" if beginning else ""
        raise ValueError(f"the prompt is {prompt} tokens long{begun} and {answer} are kept for a forced answer, but "
                         f"{speaker.engine.context}. Use a shorter prompt, fewer forced_answer_tokens or "
                         "force_answer=False.")


def most_positions(speaker: Speaker, n: int) -> int:
    """Positions that n paths of a question may come to hold: the prompt once, and each path to the end of its budget.

    Peers' words count as the tokens they were sampled as; read, they may be a few more or fewer.
    """
    config, prompt, blocks = speaker.config, len(speaker.prompt), 0
    each = config.max_new_tokens + max(config.written_answer_tokens, speaker.reserved_positions)
    if isinstance(config, LeapConfig) and config.communicates:
        blocks = (config.max_new_tokens - 1) // config.interval
        blocks = blocks if config.max_blocks is None else min(blocks, config.max_blocks)
        peers = min(config.top_k_peers, n - 1)
        comment = sum(len(speaker.vocabulary.encode([piece], after=[])) for piece in speaker.prompts.comment(peers))
        each += blocks * (speaker.frame_size + config.summary_tokens * (1 + peers) + comment)
    return prompt + n * min(each, speaker.engine.context_length - prompt)


def check_block(speaker: Speaker, config: LeapConfig, beginning: int) -> None:
    """Refuses a run that is to hold LeaP blocks and can hold none.

    Raises:
        ValueError: none comes within the budget, or none fits the context; says what to change.
    """
    prompt, answer, frame = len(speaker.prompt), speaker.reserved_positions, speaker.frame_size
    if config.max_blocks == 0 or config.blocks == ():
        return
    intervals = beginning // config.interval + 1 + (config.blocks[0] if config.blocks else 0)
    if not config.communicates or intervals * config.interval >= config.max_new_tokens:
        begun = f" after a beginning of {beginning}" if beginning else ""
        raise ValueError(f"no LeaP block would be held: with interval={config.interval} and blocks={config.blocks} none "
                         f"comes before max_new_tokens={config.max_new_tokens}{begun}. Use a smaller interval or an earlier "
                         "one of blocks, or leap=False for independent paths.")
    if config.paths_after is not None:
        last = config.blocks[: config.max_blocks][-1] if config.blocks else (config.max_blocks or 0) - 1
        if (beginning // config.interval + last + 1) * config.interval >= config.max_new_tokens:
            raise ValueError(f"paths_after={config.paths_after} waits for a last block that would not be held: with "
                             f"interval={config.interval}, blocks={config.blocks} and max_blocks={config.max_blocks} it "
                             f"comes after max_new_tokens={config.max_new_tokens}. Use fewer blocks, a smaller interval, or "
                             "paths_after=None.")
    needed = prompt + intervals * config.interval + frame + config.summary_tokens + answer
    if needed >= speaker.engine.context_length:
        times = f"{intervals} x " if intervals > 1 else ""
        raise ValueError(f"no LeaP block fits: prompt ({prompt}) + {times}interval ({config.interval}) + trigger and tags "
                         f"({frame}) + summary_tokens ({config.summary_tokens}) + forced answer ({answer}) is {needed} "
                         f"tokens, but {speaker.engine.context}. Use a smaller interval or summary_tokens, or leap=False "
                         "for independent paths.")
