#!/usr/bin/env bash
# Where mmdet has it; see slurm_train.sh.
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../slurm_train.sh" "$@"
