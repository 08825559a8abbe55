"""A small run, made by hand."""

from leapgen.record.ledger import Ledger
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, LeapOutput, PathOutput, Route, Segment


def sample(n=2, answer="42", question="What is 6 * 7?"):
    """A small run such as a group leaves."""
    paths = [PathOutput(i, [Segment("prompt", [1, 2, 3]), Segment("own", [4, 5], "So 漢", None, [-0.5, -1.0], [-0.2, 0.0]),
                            Segment("trigger", [6], " Wait.", 0),
                            Segment("summary", [7, 8], " x", 0, [-1.0, None], [0.0, None]),
                            Segment("comment", [9, 9, 9], " Peer", 0), Segment("answer", [4], " 42", None, [-2.0], [-0.1])],
                        answer=answer, finish_reason="stop", state={"stage": "finished"}) for i in range(n)]
    block = BlockRecord(0, {i: Message(i, "x", 0, num_tokens=2) for i in range(n)},
                        {i: [Route((i + 1) % n, 0.25)] for i in range(n)})
    return LeapOutput(question, paths, [block], Ledger(decoded=10, seconds={"reason": 0.5}), 7, "tiny", {"interval": 4},
                      {"top_k": None}, True)
