#!/usr/bin/env bash
# A sweep on a real Slurm of one node, on this machine: runs are requeued in the middle, by the operator, by a time-out's
# signal and by a job of higher priority, and their curves are compared with those of runs that nothing stopped.
#
#     scripts/slurm_local.sh [FOLDER]     # default: a temporary one
#
# Needs root and Debian's or Ubuntu's apt (packages slurm-wlm and munge are installed where they are missing), and a
# Python, $PYTHON or .venv/bin/python, with mfrun[submitit]. Where one of them is missing it says that it skipped and
# exits with 0. The daemons, their keys and files are its own; it stops them when it ends. No system service is touched.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")

skip() { echo "slurm_local.sh: skipped: $1"; exit 0; }
[[ $(id -u) == 0 ]] || skip "needs root, to start Slurm's daemons"
"$python" -c 'import mfrun, hydra_plugins.hydra_submitit_launcher' 2>/dev/null ||
    skip "$python has no mfrun with hydra-submitit-launcher (pip install '.[submitit]')"
if ! command -v slurmctld slurmd munged >/dev/null; then
    command -v apt-get >/dev/null || skip "no Slurm here, and no apt-get to install it"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get -qq update && apt-get -qq install -y --no-install-recommends slurm-wlm munge; } >/dev/null 2>&1 ||
        skip "apt-get cannot install slurm-wlm and munge"
fi

work=$(realpath "${1:-$(mktemp -d)}")
mkdir -p "$work"/{ctld,d,munge}
here=$(hostname -s)
pids=()
stop() {
    [[ ${#pids[@]} == 0 ]] || kill "${pids[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
}
trap stop EXIT

# -- munge and Slurm --------------------------------------------------------------------------------------------------
(umask 077 && dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 status=none)
chmod 755 "$work" "$work/munge"
munged --foreground --force --key-file "$work/munge/key" --socket "$work/munge/socket" --pid-file "$work/munge/pid" \
    --log-file "$work/munge/log" --seed-file "$work/munge/seed" >/dev/null 2>&1 &
pids+=($!)

# cred_expire: how long Slurm waits before it starts a requeued job again (120 s unless told).
cat >"$work/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$here(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$work/ctld
SlurmdSpoolDir=$work/d
SlurmctldPidFile=$work/ctld.pid
SlurmdPidFile=$work/d.pid
SlurmctldLogFile=$work/ctld.log
SlurmdLogFile=$work/d.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
KillWait=10
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$here NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=runs Nodes=$here Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=$here MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
CONF
export SLURM_CONF=$work/slurm.conf
slurmctld -D >/dev/null 2>&1 &
pids+=($!)
slurmd -D >/dev/null 2>&1 &
pids+=($!)

fail() {
    echo "slurm_local.sh: $1" >&2
    tail -n 5 "$work"/*.log "$work"/sweep.txt >&2 || true
    exit 1
}
until_true() { # SECONDS COMMAND...: waits for the command to succeed
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || fail "waited in vain for: $*"
        sleep 0.2
    done
}
node_is_idle() { [[ $(sinfo -h -o %t 2>/dev/null | head -1) == idle ]]; }
until_true 60 node_is_idle
echo "$(sinfo --version), one node"

# -- a sweep, and what happens to it ----------------------------------------------------------------------------------
keys=('widths=[20,30,40,inf]' depth=4 dataset.d=8 particles.first=128 particles.last=64 evaluation.samples=500
    threads=1 steps="${STEPS:-30000}")
launcher=(hydra/launcher=submitit_slurm hydra.launcher.gpus_per_node=null hydra.launcher.cpus_per_task=1)
"$python" -m mfrun sweep "${keys[@]}" dir="$work/alone" >/dev/null 2>&1
"$python" -m mfrun sweep "${keys[@]}" "${launcher[@]}" dir="$work/slurm" >"$work/sweep.txt" 2>&1 &
sweep=$!
pids+=("$sweep")

step() { tail -n 1 "$work/slurm/width=$1/metrics.csv" 2>/dev/null | cut -d, -f1; } # of a width's last row
past() { [[ $(step "$1") =~ ^[0-9]+$ ]] && (($(step "$1") >= $2)); }                # WIDTH STEP: has it come so far?
array=""
array_known() { array=$(squeue -h -a -r -o %F | head -1); [[ -n $array ]]; }
until_true 60 array_known

until_true 120 past 20 100
echo "width 20 at step $(step 20): scontrol requeue"
scontrol requeue "${array}_0"
until_true 120 past 30 100
echo "width 30 at step $(step 30): SIGUSR2, as before the end of its time"
timeout 3 scancel --signal=USR2 "${array}_1" || true # it repeats the signal for as long as the job is on its way out
until_true 240 past inf 100
echo "width inf at step $(step inf): a job of higher priority takes both cores"
srun --partition=urgent --ntasks=1 --cpus-per-task=2 sleep 1
"$python" -m mfrun status "$work/slurm" # from the login node, while it runs

wait "$sweep" && unset "pids[3]" || fail "the sweep ended with $?"
grep -v -i sacct "$work/sweep.txt" | tail -n 7 # sacct needs an accounting daemon, which this Slurm has not

# -- the curves -------------------------------------------------------------------------------------------------------
for i in 0 1 2 3; do
    echo "job ${array}_$i: $(scontrol show job "${array}_$i" | grep -o 'Restarts=[0-9]*')"
done
"$python" - "$work" <<'PY'
import csv, sys
from pathlib import Path

work = Path(sys.argv[1])
for alone in sorted(work.glob("alone/width=*/metrics.csv")):
    def rows(file):
        return [{k: v for k, v in row.items() if k != "wall_seconds"} for row in csv.DictReader(file.open())]
    there = work / "slurm" / alone.parent.name / "metrics.csv"
    same = rows(alone) == rows(there)
    print(f"{alone.parent.name}: {len(rows(alone))} rows, {'bit for bit the same' if same else 'DIFFERENT'}")
    if not same:
        sys.exit(f"slurm_local.sh: {there} differs from {alone}")
PY
