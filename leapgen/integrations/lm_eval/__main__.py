"""``python -m leapgen.integrations.lm_eval run --model leapgen ...``: lm-eval's own command line, with leapgen known to it.

Releases of lm-eval up to 0.4.13 look for no models outside their own package; later ones find the entry point.
"""

from lm_eval._cli import HarnessCLI
from lm_eval.utils import setup_logging

from leapgen.integrations.lm_eval.model import TASKS


def main() -> None:
    setup_logging()
    parser = HarnessCLI()
    arguments = parser.parse_args()
    if getattr(arguments, "include_path", "") is None:
        arguments.include_path = TASKS
    parser.execute(arguments)


if __name__ == "__main__":
    main()
