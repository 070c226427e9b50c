#!/usr/bin/env bash
# A real Slurm on this one host, for as long as its test takes: installs it where it isn't (Debian, Ubuntu), starts
# munged, slurmctld and slurmd as the user who calls this, with everything they write in a temporary folder.
# Arguments go to pytest. LOTPERM_PYTHON names the Python that has lotperm (default: python3).
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v slurmctld slurmd munged > /dev/null; then
  sudo=$([ "$(id -u)" = 0 ] || echo "sudo -n")
  $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends slurm-wlm munge > /dev/null
fi
PATH=$PATH:/usr/sbin:/sbin

folder=$(mktemp -d)
chmod 755 "$folder"  # munge wants its socket in a folder that everybody can enter
pids=()
stop() {
  status=$?
  # Jobs outlive the daemons.
  scancel --user="$(id -un)" --hurry > /dev/null 2>&1 || true
  wait_for 15 empty || true
  [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2> /dev/null || true
  wait
  if [ "$status" != 0 ]; then tail -n 20 "$folder"/*.log; fi
  rm -rf "$folder"
}
trap stop EXIT
trap 'exit 143' TERM INT
empty() { [ -z "$(squeue --noheader)" ]; }

wait_for() {  # wait_for SECONDS COMMAND...: until it succeeds
  for _ in $(seq "$1"); do "${@:2}" > /dev/null 2>&1 && return; sleep 1; done
  echo "gave up waiting for: ${*:2}" >&2
  return 1
}

mkdir -m 755 "$folder/munge"
head -c 1024 /dev/urandom > "$folder/munge/key"
chmod 400 "$folder/munge/key"
munged --foreground --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" \
  --pid-file="$folder/munge/pid" --log-file="$folder/munge/munged.txt" --seed-file="$folder/munge/seed" \
  > "$folder/munged.log" 2>&1 &
pids+=($!)
wait_for 20 test -S "$folder/munge/socket"

host=$(hostname -s)
read -r first second < <("${LOTPERM_PYTHON:-python3}" -c '
import socket
found = [socket.socket() for _ in range(2)]
for s in found: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in found))')
mkdir "$folder/state" "$folder/spool"
cat > "$folder/slurm.conf" << CONF
ClusterName=lotperm
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$first
SlurmdPort=$second
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
# A container has no control groups to give away.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=1,defer
KillWait=30
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=test Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
echo "CgroupPlugin=cgroup/v1" > "$folder/cgroup.conf"
export SLURM_CONF=$folder/slurm.conf
slurmctld -D > "$folder/slurmctld.log" 2>&1 & pids+=($!)
wait_for 20 scontrol ping
slurmd -D > "$folder/slurmd.log" 2>&1 & pids+=($!)
idle() { [ "$(sinfo --noheader --format=%T)" = idle ]; }
wait_for 30 idle
sinfo --version
"${LOTPERM_PYTHON:-python3}" -m pytest tests/slurm -q "$@"
