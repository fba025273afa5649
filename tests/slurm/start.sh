#!/usr/bin/env bash
# Start a Slurm cluster of two nodes on this machine (as root): start.sh FOLDER [PORT]. Everything is
# kept in the folder, and three ports are listened on. Afterwards SLURM_CONF=FOLDER/slurm.conf makes
# Slurm's commands talk to it; stop.sh FOLDER ends it. Exit code 77: Slurm is not installed (install.sh
# does it) or cannot be started.
set -euo pipefail
folder=$(readlink -f "$1")
port=${2:-16817}
mkdir -p "$folder"/{state,n1,n2}
unable() { echo "Slurm cannot be started here: $1" >&2; exit 77; }
[ "$(id -u)" = 0 ] || unable "needs root"
command -v slurmctld slurmd munged srun >/dev/null || unable "not installed; tests/slurm/install.sh does it"
host=$(hostname -s)
cpus=$(nproc)
cat >"$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
SlurmdTimeout=300
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=$cpus
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=$cpus
PartitionName=two Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
END
export SLURM_CONF="$folder/slurm.conf"
dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 2>/dev/null
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF" -N n1
slurmd -f "$SLURM_CONF" -N n2
for _ in $(seq 60); do
    if [ "$(sinfo -h -o '%T %D' 2>/dev/null)" = "idle 2" ]; then exit 0; fi
    sleep 0.5
done
unable "the nodes do not come up: $(sinfo 2>&1 | tail -n 2; tail -n 3 "$folder"/slurm*.log)"
