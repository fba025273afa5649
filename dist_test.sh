#!/usr/bin/env bash
# Test on several GPUs (or, without any, in several CPU processes) of one or more machines.
usage="usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=] bash dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py, e.g. --eval bbox segm]"
if [ $# -lt 3 ]; then echo "$usage" >&2; exit 2; fi
root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$root/tools/python.sh"
exec "$PYTHON" "$root/tools/launch.py" "$3" "$root/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
