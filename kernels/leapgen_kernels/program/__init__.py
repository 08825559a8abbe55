"""Programs: decoder layers as linear layers, attention, and instructions on each token's numbers, run by one call.

``Writer`` writes a program, ``csrc/program`` runs it.
"""

from leapgen_kernels.interface import Memory
from leapgen_kernels.program.stack import Program, ProgramError, Stack
from leapgen_kernels.program.writer import BINARY, ROW, UNARY, Writer

__all__ = ["BINARY", "ROW", "UNARY", "Memory", "Program", "ProgramError", "Stack", "Writer"]
