#!/bin/sh
# Trains as people's own scripts do: something before, then Python as a child, which it waits for.
set -e
python3 -c 'print("before")'
python3 tiny.py --local_rank="$LOCAL_RANK" --deepspeed_config="$DSJOB_DEEPSPEED_CONFIG" "$@"
echo "after"
