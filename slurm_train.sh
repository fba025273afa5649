#!/usr/bin/env bash
# Train on a Slurm cluster, one task a GPU. REQUEUE=1 submits a batch job that goes on by itself
# after preemption, its time limit and requeueing, until the training is over.
usage="usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS= REQUEUE=0 SIGNAL_SECONDS=120] bash slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]"
if [ $# -lt 4 ]; then echo "$usage" >&2; exit 2; fi
if ! command -v srun >/dev/null; then
    echo "error: srun not found: this is no Slurm cluster; use dist_train.sh" >&2
    exit 1
fi
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$root/tools/python.sh"
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
SIGNAL_SECONDS=${SIGNAL_SECONDS:-120}
REQUEUE=${REQUEUE:-0}
positive GPUS GPUS_PER_NODE CPUS_PER_TASK SIGNAL_SECONDS
if [ "$REQUEUE" != 0 ] && [ "$REQUEUE" != 1 ]; then
    echo "error: REQUEUE must be 0 or 1, not '$REQUEUE'" >&2
    exit 2
fi
config_exists "$3"
if [ "$GPUS" -lt "$GPUS_PER_NODE" ]; then GPUS_PER_NODE=$GPUS; fi
# SRUN_ARGS holds several words
# shellcheck disable=SC2206
job=(-p "$1" --job-name="$2" --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS"
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" ${SRUN_ARGS:-})
train=("$PYTHON" -u "$root/tools/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}")
if [ "$REQUEUE" != 1 ]; then
    exec srun "${job[@]}" --kill-on-bad-exit=1 "${train[@]}"
fi
mkdir -p "$4"
# srun passes the signal on to the ranks, which then write a checkpoint and end with 75
exec sbatch "${job[@]}" --requeue --open-mode=append --output="$4/slurm_%j.out" \
    --signal="USR1@$SIGNAL_SECONDS" <<END
#!/usr/bin/env bash
srun --cpus-per-task=$CPUS_PER_TASK --kill-on-bad-exit=1 $(printf '%q ' "${train[@]}") --auto-resume
code=\$?
if [ \$code = 75 ]; then scontrol requeue \$SLURM_JOB_ID; fi
exit \$code
END
