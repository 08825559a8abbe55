import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

CSRC = Path("kernels/csrc")

# Plain C++ behind a C interface: no torch at build time. Where no compiler is found, plain torch does the work.
cpu_kernels = Extension(
    "leapgen_kernels._cpu",
    sources=sorted(map(str, CSRC.rglob("*.cpp"))),
    depends=sorted(map(str, CSRC.rglob("*.h"))),
    include_dirs=[str(CSRC)],
    language="c++",
    # Sums stay in the order they are written in: a result must not depend on what is computed beside it. Python's own
    # -fwrapv makes the linear layers a third slower, and so does an inner loop that straddles cache lines.
    extra_compile_args=["-O3", "-fno-wrapv", "-falign-loops=64", "-std=c++17", "-fopenmp", "-fno-math-errno",
                        "-fno-trapping-math", "-ffp-contract=fast", "-fvisibility=hidden", "-Wno-psabi"],
    extra_link_args=["-fopenmp"],
    optional=True,
)

VERSION = re.search(r'__version__ = "(.+)"', Path(__file__).with_name("leapgen").joinpath("version.py").read_text()).group(1)

setup(
    name="leapgen",
    version=VERSION,
    description="Learning from Peers (LeaP): reasoning paths that help each other, every KV entry computed once",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["leapgen", "leapgen.*"]), *find_packages("kernels")],
    package_dir={"leapgen_kernels": "kernels/leapgen_kernels"},
    ext_modules=[cpu_kernels],
    package_data={"leapgen": ["py.typed", "hub/*/*", "integrations/lm_eval/tasks/*.yaml", "models/*/*", "viewer/*.html",
                              "viewer/*.css", "viewer/*.js"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5",
        "accelerate>=1.10",
        "rapidfuzz>=3.9",
        "numpy>=1.26",
        "psutil>=5.9",
        "rich>=13",
        "tqdm>=4.66",
    ],
    extras_require={
        # The GPU kernels are tested on CPU in Triton's interpreter; torch for CUDA brings its own Triton.
        "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "gguf>=0.10", "sentencepiece>=0.2",
                 "matplotlib>=3.8", "peft>=0.21", "optimum-quanto>=0.2.7",  # models that change or are quantised
                 "selenium>=4.40",  # pages are opened in Chromium, where there is one
                 "datasets>=5", "math-verify>=0.9", "reasoning-gym>=0.1.25",
                 "triton>=3.6,<3.10; sys_platform == 'linux'"],
        "test-integrations": [
            "lm-eval>=0.4.13", "inspect-ai>=0.3.285",
            "fastapi>=0.165", "uvicorn>=0.54", "prometheus-client>=0.26", "httpx>=0.28", "openai>=3.57",
            "schemathesis>=4.32",
        ],
        "lm-eval": ["lm-eval>=0.4.13"],
        "inspect": ["inspect-ai>=0.3.285"],
        "serve": ["fastapi>=0.165", "uvicorn>=0.54", "prometheus-client>=0.26"],
        "demo": ["gguf>=0.10"],
        "eval": ["datasets>=5", "math-verify>=0.9"],
        "gym": ["reasoning-gym>=0.1.25"],
        "plots": ["matplotlib>=3.8"],
        "flash": ["flash-attn>=2.7"],
        "docs": ["sphinx>=9", "furo>=2025.12", "myst-parser>=5"],
    },
    entry_points={
        "console_scripts": ["leapgen=leapgen.terminal.cli:main"],
        "lm_eval.models": ["leapgen=leapgen.integrations.lm_eval:LeapLM"],
        "inspect_ai": ["leapgen=leapgen.integrations.inspect_ai"],
    },
)
