"""Fine-tune a BERT with Transformers' Trainer; DeepSpeed is a flag and a file.

deepspeed train.py --output_dir=checkpoints --deepspeed ds_config.json
"""

import deepspeed
from task import MODEL, make_collate, read_texts, require_zero3
from transformers import (
    AutoModelForSequenceClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint


def main():
    (args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
    if args.use_cpu:
        # Transformers has made the group by torch then, and DeepSpeed would count one rank.
        deepspeed.init_distributed()
    # With the flag, each rank makes its share of the model alone.
    model = AutoModelForSequenceClassification.from_pretrained(MODEL)
    trainer = Trainer(
        model=model,
        args=args,
        data_collator=make_collate(),
        train_dataset=read_texts("train"),
        eval_dataset=read_texts("validation"),
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(args.output_dir))
    require_zero3(trainer.model_wrapped)
    print(trainer.evaluate(), flush=True)


if __name__ == "__main__":
    main()
