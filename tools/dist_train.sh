#!/usr/bin/env bash
# Where mmdet has it; see dist_train.sh.
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../dist_train.sh" "$@"
