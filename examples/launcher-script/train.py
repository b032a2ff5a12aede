"""Fine-tune a BERT with DeepSpeed's own engine, as its launcher starts it. Nothing here is Ray's.

deepspeed --hostfile=hostfile train.py --deepspeed --deepspeed_config ds_config.json
"""

import argparse
import itertools

import deepspeed
import torch
from task import MODEL, make_collate, read_texts, require_zero3
from transformers import AutoModelForSequenceClassification, set_seed


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--local_rank", type=int, default=-1, help="from the launcher")
    parser.add_argument("--save_dir", default="checkpoints", help="also where to go on from")
    parser.add_argument("--save_interval", type=int, default=4, help="micro-batches")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--init", choices=["torch", "deepspeed"], help="who makes the group first")
    return deepspeed.add_config_arguments(parser).parse_args()


def main():
    args = parse_args()
    if args.init == "torch":
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    elif args.init == "deepspeed":
        deepspeed.init_distributed()

    set_seed(42)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL)
    model_engine, _, data_loader, lr_scheduler = deepspeed.initialize(
        args=args,
        model=model,
        model_parameters=model.parameters(),
        training_data=read_texts("train"),
        collate_fn=make_collate(),
    )
    require_zero3(model_engine)

    _, client_state = model_engine.load_checkpoint(args.save_dir)
    done = (client_state or {}).get("step", 0)
    # The loader's order is the same in every start, so what was seen can be left out.
    batches = itertools.chain.from_iterable(itertools.repeat(data_loader, args.epochs))
    for step, batch in enumerate(itertools.islice(batches, done, None), start=done + 1):
        loss = model_engine(**batch.to(model_engine.device)).loss
        model_engine.backward(loss)
        model_engine.step()
        if model_engine.global_rank == 0:
            print(f"step {step} loss {loss.item():.4f} lr {lr_scheduler.get_last_lr()}", flush=True)
        if step % args.save_interval == 0:
            model_engine.save_checkpoint(args.save_dir, f"step{step}", client_state={"step": step})


if __name__ == "__main__":
    main()
