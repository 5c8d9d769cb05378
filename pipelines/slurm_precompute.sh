#!/bin/bash
# Stage one as a SLURM array: each job makes its part of the store's shards, on one GPU, and ends.
#   sbatch --array=0-15 pipelines/slurm_precompute.sh --teacher bts --store /shared/stores/bts.zarr
# A job that failed or was killed is sent again alone (--array=7), or with all others: what is finished is not redone.
# The array must begin at 0.
#SBATCH --job-name=precompute
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue

set -eu
first=${SLURM_ARRAY_TASK_ID:?start me with sbatch --array=0-N}
exec tiekd-cache precompute "$@" --workers 6 --shard-range "$first/$SLURM_ARRAY_TASK_COUNT"
