#!/usr/bin/env bash
# Train on several GPUs (or, without any, in several CPU processes) of one or more machines.
usage="usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT= MAX_RESTARTS=0] bash dist_train.sh CONFIG GPUS [options of tools/train.py]"
if [ $# -lt 2 ]; then echo "$usage" >&2; exit 2; fi
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$root/tools/python.sh"
exec "$PYTHON" "$root/tools/launch.py" "$2" "$root/tools/train.py" "$1" --default-seed 0 --launcher pytorch "${@:3}"
