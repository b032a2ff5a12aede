#!/bin/sh
# Started once on every node, without SSH. $1 says which launcher starts the ranks.
set -eu
launcher=$1
shift
set -- train.py --deepspeed --deepspeed_config ds_config.json "$@"
case $launcher in
deepspeed)
    exec deepspeed --hostfile=hostfile --include="worker-1@worker-2" --no_ssh \
        --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$@" ;;
single) exec deepspeed --include localhost:0,1 "$@" ;;
torchrun)
    exec torchrun --nnodes="$NNODES" --nproc_per_node="$NPROC_PER_NODE" \
        --node_rank="$NODE_RANK" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$@" ;;
accelerate)
    exec accelerate launch --use_deepspeed --num_machines="$NNODES" \
        --num_processes="$NUM_PROCESSES" --machine_rank="$NODE_RANK" \
        --main_process_ip="$MASTER_ADDR" --main_process_port="$MASTER_PORT" \
        --deepspeed_multinode_launcher=standard "$@" ;;
mpirun) exec mpirun -np "$NUM_PROCESSES" -x PATH python3 -u "$@" ;;
esac
