#!/bin/sh
# A script as people start by hand on every node, without SSH; its launcher is told by name.
launcher=$1
shift
set -- tiny.py --deepspeed_config="$DSJOB_DEEPSPEED_CONFIG" "$@"
echo "before the launcher on node $NODE_RANK of $NNODES"
case $launcher in
deepspeed)
    deepspeed --hostfile=hosts --include="worker-1@worker-2" --no_ssh --node_rank="$NODE_RANK" \
        --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT" "$@" ;;
deepspeed-one) deepspeed --num_gpus=2 --bind_cores_to_rank "$@" ;;
torchrun)
    torchrun --nnodes="$NNODES" --nproc_per_node="$NPROC_PER_NODE" --node_rank="$NODE_RANK" \
        --rdzv_backend=c10d --rdzv_endpoint="$MASTER_ADDR:$MASTER_PORT" "$@" ;;
torch-module) python3 -m torch.distributed.run --nnodes="$NNODES" "$@" ;;
accelerate)
    accelerate launch --use_deepspeed --zero_stage=3 --num_machines="$NNODES" \
        --num_processes="$NUM_PROCESSES" --machine_rank="$NODE_RANK" \
        --main_process_ip="$MASTER_ADDR" --main_process_port="$MASTER_PORT" \
        --deepspeed_multinode_launcher=standard "$@" ;;
mpirun) mpirun -np 2 -x GREETING=hello --bind-to none python3 -u "$@" ;;
wrong-size) deepspeed --num_nodes=4 "$@" ;;
esac
code=$?
echo "after the launcher: $code"
exit $code
