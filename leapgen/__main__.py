"""``python -m leapgen``, which is also what ``accelerate launch -m leapgen sft`` runs."""

import sys

from leapgen.terminal.cli import main

if __name__ == "__main__":
    sys.exit(main())
