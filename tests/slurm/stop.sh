#!/usr/bin/env bash
# End the cluster that start.sh FOLDER has started.
folder=$(readlink -f "$1")
for name in slurmd.n1 slurmd.n2 slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")"; fi
done
