#!/bin/bash
# A study on one machine with eight GPUs: torchrun starts a process for each and numbers them (LOCAL_RANK), and
# --device-map cuda is then the GPU of that number. The two dashes keep torchrun from
# reading on. Without torchrun, the same command in eight terminals does as well.
torchrun --nproc-per-node 8 -m -- \
    leapgen eval --problems aime24 --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --device-map cuda \
    --n 32 --groups 5 --arms leap,independent,equal:leap --output runs/aime24
