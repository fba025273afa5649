#!/usr/bin/env bash
# Where mmdet has it; see dist_test.sh.
exec bash "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../dist_test.sh" "$@"
