#!/usr/bin/env bash
# Install Slurm on Debian or Ubuntu, for tests/slurm: as root, on a machine that may be changed.
# Exit code 77: it cannot be installed here.
set -euo pipefail
unable() { echo "Slurm cannot be installed here: $1" >&2; exit 77; }
if command -v slurmctld slurmd munged srun >/dev/null; then exit 0; fi
[ "$(id -u)" = 0 ] || unable "needs root"
command -v apt-get >/dev/null || unable "needs apt-get"
log=$(mktemp)
apt-get update -qq >"$log" 2>&1 || true
DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends \
    -o DPkg::Lock::Timeout=250 slurm-wlm >>"$log" 2>&1 \
    || unable "apt-get install slurm-wlm failed ($log)"
