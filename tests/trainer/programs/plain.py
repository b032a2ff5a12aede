"""A program without torch that ends as it is told: how a run ends needs no training."""

import os
import signal
import sys
import time
from pathlib import Path

how = sys.argv[2]
rank = int(os.environ["RANK"])
print(f"pid {os.getpid()}", flush=True)
if how == "raise-1" and rank == 1:
    raise RuntimeError("told to fail")
if how == "abort-1" and rank == 1:
    os.kill(os.getpid(), signal.SIGSEGV)
if how == "import":
    import there_is_no_such_module  # noqa: F401
if how == "hang" or (how.endswith("-1") and rank == 0):
    Path(sys.argv[3] if len(sys.argv) > 3 else os.devnull).write_text(str(os.getpid()))
    time.sleep(600)
