"""`python -m deepspeed_trainer.driver`: what the operator submits."""

import sys

from deepspeed_trainer.driver.run import main

sys.exit(main())
