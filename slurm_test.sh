#!/usr/bin/env bash
# Test on a Slurm cluster, one task a GPU.
usage="usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=] bash slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]"
if [ $# -lt 4 ]; then echo "$usage" >&2; exit 2; fi
if ! command -v srun >/dev/null; then
    echo "error: srun not found: this is no Slurm cluster; use dist_test.sh" >&2
    exit 1
fi
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$root/tools/python.sh"
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
positive GPUS GPUS_PER_NODE CPUS_PER_TASK
config_exists "$3"
if [ "$GPUS" -lt "$GPUS_PER_NODE" ]; then GPUS_PER_NODE=$GPUS; fi
# SRUN_ARGS holds several words
# shellcheck disable=SC2086
exec srun -p "$1" --job-name="$2" --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "$PYTHON" -u "$root/tools/test.py" "$3" "$4" --launcher=slurm "${@:5}"
