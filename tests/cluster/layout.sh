# shellcheck shell=bash disable=SC2034
# Names, places and ports of the test cluster, and the few functions that its scripts share.

readonly STATE=/run/glm-grid-cluster
readonly SLURM_CONF=$STATE/slurm.conf
export SLURM_CONF
readonly CLUSTER_USER=glmgrid
readonly NODES=(h100-1 h100-2 h100-3 h100-4)
readonly GPU_FILES=(/dev/fakegpu0 /dev/fakegpu1 /dev/fakegpu2 /dev/fakegpu3)
readonly MARIADB_PORT=13306 SLURMDBD_PORT=16819 SLURMCTLD_PORT=16817 FIRST_SLURMD_PORT=17001
readonly MUNGE_SOCKET=$STATE/munge/socket
readonly MARIADB_SOCKET=$STATE/mariadb/socket
readonly START_DEADLINE_S=60

say() { printf 'cluster: %s\n' "$*"; }

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

require_root() {
    ((EUID == 0)) || fail "the test cluster needs root; this is $(id -un)"
}

# alive NAME: the daemon noted as NAME ("slurmd.h100-1", "munged") runs. The program's name is
# compared, because a process id may by now belong to another process; a dead process that nobody
# has waited for still has its name, but no program file.
alive() {
    local pid
    pid=$(noted_pid "$1") && [[ -e /proc/$pid/exe ]] &&
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "${1%%.*}" ]]
}

noted_pid() { cat "$STATE/pids/$1" 2>/dev/null; }

# wait_until SECONDS COMMAND…: 0 as soon as COMMAND succeeds, 1 when the time is over.
wait_until() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}
