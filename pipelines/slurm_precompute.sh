#!/bin/bash
# Stage one as a SLURM array: each job makes its part of the store's shards, on one GPU, and ends.
#   sbatch --array=0-15 pipelines/slurm_precompute.sh --teacher bts --store /shared/stores/bts.zarr
# Jobs that failed or were killed: send the same array again, since what is finished is not redone; or only some of
# them, with the number of parts that the whole array had:
#   PARTS=16 sbatch --array=7,9 pipelines/slurm_precompute.sh --teacher bts --store /shared/stores/bts.zarr
# The whole array begins at 0 and has no gaps.
#SBATCH --job-name=precompute
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue

set -eu
part=${SLURM_ARRAY_TASK_ID:?start me with sbatch --array=0-N}
exec tiekd-cache precompute "$@" --workers 6 --shard-range "$part/${PARTS:-$SLURM_ARRAY_TASK_COUNT}"
