"""Fine-tune a pretrained BERT with DeepSpeed ZeRO-3: does this gloss define this word?

An ordinary program for the `deepspeed` launcher; it knows nothing of Kubernetes, Ray or the
operator. It trains, saves, and continues from the last save as it would anywhere else. The samples
and the dropout of a step follow from the seed and the step's number, so a run that was stopped
goes on as if it had not been. Left out: data loading at scale, and the search for good parameters.
"""

import argparse
import math
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import deepspeed
import deepspeed.comm as dist
import torch
from pairs import Pair, Split, read_senses, shuffle_labels, split_pairs
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

HERE = Path(__file__).parent

Encode = Callable[[Sequence[Pair]], dict[str, torch.Tensor]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--local_rank", type=int, default=-1, help="set by the launcher")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="folder of the model")
    parser.add_argument("--text", type=Path, default=HERE / "wordnet", help="WordNet's files")
    parser.add_argument(
        "--checkpoint-dir",
        default=os.environ.get("DSJOB_CHECKPOINT_DIR", "checkpoints"),
        help="saves go here, and a run continues from the last one; shared by all nodes",
    )
    parser.add_argument("--save-interval", type=int, default=8, help="steps between two saves")
    parser.add_argument("--steps", type=int, help="default: total_num_steps of the scheduler")
    parser.add_argument("--held-out", type=int, default=1024, help="pairs to evaluate on")
    parser.add_argument("--eval-batch-size", type=int, default=64, help="pairs per rank")
    parser.add_argument("--max-length", type=int, default=32, help="tokens of word and gloss")
    # So few steps learn more without dropout than with it.
    parser.add_argument("--dropout", type=float, default=0.0, help="in the hidden layers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shuffle-labels",
        action="store_true",
        help="control: train on labels that mean nothing; accuracy must stay at one half",
    )
    deepspeed.add_config_arguments(parser)
    parser.set_defaults(deepspeed_config=str(HERE / "ds_config.json"))
    return parser.parse_args()


def load_pairs(args: argparse.Namespace) -> Split:
    split = split_pairs(read_senses(args.text), args.held_out, args.seed)
    if args.shuffle_labels:
        return Split(shuffle_labels(split.train, args.seed), split.held_out)
    return split


def build_encoder(args: argparse.Namespace, device: torch.device) -> Encode:
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
        batch = tokenizer(
            [pair.word for pair in pairs],
            [pair.gloss for pair in pairs],
            truncation=True,
            max_length=args.max_length,
            padding="longest",
            return_tensors="pt",
        )
        batch["labels"] = torch.tensor([pair.label for pair in pairs])
        return {name: tensor.to(device) for name, tensor in batch.items()}

    return encode


def require_zero3(engine: deepspeed.DeepSpeedEngine) -> None:
    """Refuse to train on less than what was launched: all ranks in one group, weights sharded.

    Raises: RuntimeError saying what is not as it should be.
    """
    stage, ranks, launched = (
        engine.zero_optimization_stage(),
        dist.get_world_size(),
        int(os.environ["WORLD_SIZE"]),
    )
    if stage != 3:
        raise RuntimeError(f"DeepSpeed runs ZeRO stage {stage}: set zero_optimization.stage to 3")
    if ranks != launched or ranks < 2:
        raise RuntimeError(
            f"the process group has {ranks} rank(s), {launched} were launched: "
            "ZeRO-3 needs at least two, all in one group"
        )
    weights = list(engine.module.parameters())
    total = sum(weight.ds_numel for weight in weights)
    held = sum(weight.ds_tensor.numel() for weight in weights)
    # Each weight is padded to a multiple of the number of ranks: less than one element a rank.
    if not total / ranks <= held <= total / ranks + len(weights):
        raise RuntimeError(
            f"rank {dist.get_rank()} holds {held} of {total} parameters, not one {ranks}th of them"
        )
    report(f"ZeRO-3: {total} parameters over {ranks} ranks, {held} on this one")


def resume(engine: deepspeed.DeepSpeedEngine, checkpoint_dir: str) -> int:
    """Load the last save if there is one, and return the number of steps it holds.

    Raises: RuntimeError if there is a save that DeepSpeed did not load.
    """
    path, client_state = engine.load_checkpoint(checkpoint_dir)
    if path is None:
        # DeepSpeed only warns, and training from zero would overwrite what was there.
        if (Path(checkpoint_dir) / "latest").exists():
            raise RuntimeError(f"DeepSpeed could not load the checkpoint in {checkpoint_dir}")
        return 0
    report(f"resumed after step {client_state['step']} from {path}")
    return client_state["step"]


def train(
    engine: deepspeed.DeepSpeedEngine,
    encode: Encode,
    pairs: Sequence[Pair],
    args: argparse.Namespace,
) -> None:
    total_steps = args.steps or engine.lr_scheduler.total_num_steps
    engine.train()
    for step in range(resume(engine, args.checkpoint_dir) + 1, total_steps + 1):
        for micro_step in range(engine.gradient_accumulation_steps()):
            first = first_sample(engine, step, micro_step)
            # Dropout follows from the sample's number, so a resumed step draws the same.
            torch.manual_seed(args.seed + first)
            samples = range(first, first + engine.train_micro_batch_size_per_gpu())
            loss = engine(**encode([pairs[sample % len(pairs)] for sample in samples])).loss
            engine.backward(loss)
            engine.step()
        report(f"step {step}/{total_steps} loss {loss.item():.4f}")
        if step % args.save_interval == 0 or step == total_steps:
            engine.save_checkpoint(args.checkpoint_dir, client_state={"step": step})


def first_sample(engine: deepspeed.DeepSpeedEngine, step: int, micro_step: int) -> int:
    """Number of this rank's first sample in the one order that all ranks read from together."""
    turn = micro_step * dist.get_world_size() + dist.get_rank()
    return (step - 1) * engine.train_batch_size() + turn * engine.train_micro_batch_size_per_gpu()


@torch.no_grad()
def evaluate(
    engine: deepspeed.DeepSpeedEngine, encode: Encode, pairs: Sequence[Pair], batch_size: int
) -> dict[str, float]:
    engine.eval()
    by_length = sorted(pairs, key=lambda pair: len(pair.gloss))
    right, found, claimed = torch.zeros(3, device=engine.device).unbind()
    ranks = dist.get_world_size()
    for turn in range(math.ceil(len(pairs) / (batch_size * ranks))):
        first = (turn * ranks + dist.get_rank()) * batch_size
        own = by_length[first : first + batch_size]
        # A forward gathers weights from all ranks: a rank without pairs left takes part, too.
        batch = encode(own or by_length[:1])
        labels = batch.pop("labels")[: len(own)]
        answers = engine(**batch).logits.argmax(dim=-1)[: len(own)]
        right += (answers == labels).sum()
        found += (answers * labels).sum()
        claimed += answers.sum()
    counts = torch.stack([right, found, claimed])
    dist.all_reduce(counts)
    right, found, claimed = counts.tolist()
    return {
        "accuracy": right / len(pairs),
        "f1": 2 * found / (claimed + sum(pair.label for pair in pairs)),
    }


def report(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


def main() -> None:
    # DeepSpeed 0.19 calls collectives by names that torch 2.13 renames: a warning at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    args = parse_args()
    torch.manual_seed(args.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=2,
        hidden_dropout_prob=args.dropout,
        attention_probs_dropout_prob=args.dropout,
    )
    engine, *_ = deepspeed.initialize(args=args, model=model, model_parameters=model.parameters())
    require_zero3(engine)
    pairs = load_pairs(args)
    encode = build_encoder(args, engine.device)
    report(f"{len(pairs.train)} pairs to train on, {len(pairs.held_out)} held out")
    train(engine, encode, pairs.train, args)
    figures = evaluate(engine, encode, pairs.held_out, args.eval_batch_size)
    engine.monitor.write_events(
        [(name, value, engine.global_samples) for name, value in figures.items()]
    )
    report(" ".join(f"{name} {value:.4f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
