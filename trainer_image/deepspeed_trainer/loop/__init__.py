"""For people's own training loops: samples in one exact order, and a resume that is exact.

    from deepspeed_trainer.loop import Loop

    run = Loop(engine, dataset, seed=0)
    for batch in run.batches(epochs=3):
        engine.backward(engine(batch))
        engine.step()
        if run.step % 100 == 0:
            run.save()

It works under the operator and under any launcher; it knows neither Ray nor the rest of the
trainer.  docs/exact.md has the whole of it.
"""

from deepspeed_trainer.loop.equal import equal_batches
from deepspeed_trainer.loop.training import Loop

__all__ = ["Loop", "equal_batches"]
