"""A study on a Ray cluster: workers wherever there is a GPU, all on one shared folder.

    python examples/launch/ray_eval.py --workers 8 --gpus 1 -- --problems aime24 --model Qwen/Qwen3-8B --device-map cuda \
        --n 32 --groups 5 --arms leap,independent --output /shared/runs/aime24

Everything after -- is for ``leapgen eval``. A worker whose node is lost is started again by Ray; what it had finished stays.
"""

from __future__ import annotations

import argparse
import sys

import ray


def work(arguments: list[str]) -> int:
    from leapgen.terminal.cli import main

    return main(["eval", *arguments])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0.0, help="of each worker")
    parser.add_argument("--cpus", type=float, default=1.0, help="of each worker")
    parser.add_argument("--here", type=int, metavar="CPUS", help="start a cluster on this machine instead of joining one")
    parser.add_argument("arguments", nargs="+", help="of leapgen eval")
    options = parser.parse_args()
    ray.init(num_cpus=options.here, include_dashboard=False) if options.here else ray.init("auto")
    task = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus)(work)
    return max(ray.get([task.remote(options.arguments) for _ in range(options.workers)]))


if __name__ == "__main__":
    sys.exit(main())
