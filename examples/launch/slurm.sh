#!/bin/bash
# A study on SLURM: a process for each GPU, on as many nodes as there are; all share the folder at --output.
# Killed, requeued or submitted twice, it goes on with what is left:
#     sbatch examples/launch/slurm.sh
#     leapgen eval --report /shared/runs/aime24        # at any time
#SBATCH --job-name=leapgen
#SBATCH --ntasks=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@60
srun --kill-on-bad-exit=0 \
    leapgen eval --problems aime24 --model deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --device-map cuda \
    --n 32 --groups 5 --arms leap,independent,equal:leap --output /shared/runs/aime24
