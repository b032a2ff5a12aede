"""Lets `python -m deepspeed_operator.cli` be `dsjob`, also where no script was installed."""

from deepspeed_operator.cli.main import main

if __name__ == "__main__":
    main(prog_name="dsjob")
