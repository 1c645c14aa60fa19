# shellcheck shell=bash
# Writes the configuration of every daemon into a directory. Sourced by `start`, after layout.sh and
# with MAX_ARRAY_SIZE and ACCOUNTING set.

# write_slurm_conf DIRECTORY: slurm.conf, gres.conf, cgroup.conf.
write_slurm_conf() {
    local processes="ProctrackType=proctrack/linuxproc
TaskPlugin=task/none" accounts=""
    if cgroups_work; then
        processes="ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup"
    fi
    if [[ $ACCOUNTING == 1 ]]; then
        accounts="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$SLURMDBD_PORT
AccountingStoragePass=$MUNGE_SOCKET
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5"
    fi
    cat >"$1/slurm.conf" <<CONF
ClusterName=glmgrid
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$SLURMCTLD_PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job is held for as long as a credential lives: 120 s unless told otherwise.
AuthInfo=socket=$MUNGE_SOCKET,cred_expire=20
StateSaveLocation=$STATE/slurmctld
SlurmdSpoolDir=$STATE/slurmd/%n
SlurmdPidFile=$STATE/slurmd/%n.pid
SlurmctldPidFile=$STATE/slurmctld.pid
# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=60
KillWait=10
MinJobAge=300
SelectType=select/cons_tres
# With CR_CPU alone memory is not allocated and so never enforced.
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=bf_interval=5
$processes
$accounts
GresTypes=gpu
MpiDefault=none
JobRequeue=1
MaxArraySize=$MAX_ARRAY_SIZE
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$(node_lines)
# LLN, the least loaded node first: jobs spread over the nodes.
PartitionName=DEFAULT Nodes=ALL State=UP DefaultTime=10 MaxTime=60 DefMemPerCPU=500 LLN=YES
PartitionName=normal Default=YES PriorityTier=1
PartitionName=high PriorityTier=10
CONF
    printf 'NodeName=%s Name=gpu Type=h100 File=/dev/fakegpu[0-%d]\n' \
        "$(IFS=,; echo "${NODES[*]}")" $((${#GPU_FILES[@]} - 1)) >"$1/gres.conf"
    cat >"$1/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupAutomount=yes
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
CONF
}

node_lines() {
    local i
    for i in "${!NODES[@]}"; do
        echo "NodeName=${NODES[i]} NodeHostname=localhost NodeAddr=127.0.0.1" \
            "Port=$((FIRST_SLURMD_PORT + i)) CPUs=8 RealMemory=5000 Gres=gpu:h100:${#GPU_FILES[@]}"
    done
}

# write_slurmdbd_conf DIRECTORY PASSWORD
write_slurmdbd_conf() {
    install -m 0600 /dev/stdin "$1/slurmdbd.conf" <<CONF
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$SLURMDBD_PORT
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$MUNGE_SOCKET
PidFile=$STATE/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$MARIADB_PORT
StorageUser=slurm
StoragePass=$2
StorageLoc=slurm
CONF
}

# cgroups_work: processes can be tracked and their memory limited through cgroup/v1 here.
cgroups_work() {
    local controller probe
    for controller in freezer memory; do
        probe=/sys/fs/cgroup/$controller/glm-grid-probe
        grep -q "/sys/fs/cgroup/$controller cgroup " /proc/mounts || return 1
        mkdir -p "$probe" 2>/dev/null && rmdir "$probe" || return 1
    done
}
