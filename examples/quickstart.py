"""LeaP beside independent paths on the same engine, with any causal language model transformers can load.

    python examples/quickstart.py --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --dtype bfloat16 --device-map cuda
    python examples/quickstart.py            # SmolLM2-135M from PyPI: works anywhere, reasons badly
"""

import argparse

from leapgen import LeapGenerator
from leapgen.demo import SETTINGS, load_smollm2

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--dtype", default="auto")
parser.add_argument("--device-map", default=None)
parser.add_argument("--question", default="What is the sum of the first 20 odd numbers?")
parser.add_argument("-n", type=int, default=4)
arguments = parser.parse_args()

if arguments.model:
    options = {"device_map": arguments.device_map} if arguments.device_map else {}
    generator = LeapGenerator.from_pretrained(arguments.model, dtype=arguments.dtype, **options)
    settings = {}
else:
    generator, settings = load_smollm2(), SETTINGS

together = generator.generate(arguments.question, n=arguments.n, **settings)
alone = generator.generate(arguments.question, n=arguments.n, leap=False, **settings)
print("with peers:", together.answers, "->", together.majority())
print("alone:     ", alone.answers, "->", alone.majority())
for block in together.blocks:
    for path, routes in block.routes.items():
        print(f"block {block.index}: path {path} read paths {[route.peer for route in routes]}")
