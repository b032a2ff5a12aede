"""The examples as tests run them here: their own files and entrypoints, a model of a few weights.

The folder of a cluster's code is filled anew for every job, as a ConfigMap would be mounted.
"""

import json
import random
import shutil
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from deepspeed_trainer.contract import DataSource, Entrypoint, EntrypointKind
from tests.trainer.attempts import Job, Outcome
from tests.trainer.raycluster import ROOT

EXAMPLES = ROOT / "examples"
WORDS = "sun moon river stone bird cloud house garden letter song".split()
TRAIN, VALIDATION = 64, 32


def make_task(folder: Path) -> None:
    """Put into a folder what the examples' image holds: task.py, a model and texts."""
    shutil.copy(EXAMPLES / "image" / "task.py", folder)
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*marks, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names)
    fast.save_pretrained(folder / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocabulary), intermediate_size=64, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    draw = random.Random(0)  # noqa: S311  repeatable on purpose
    (folder / "data").mkdir()
    for split, count in (("train", TRAIN), ("validation", VALIDATION)):
        rows = [_row(draw) for _ in range(count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "data" / f"{split}.jsonl").write_text(text)


def _row(draw: random.Random) -> dict[str, Any]:
    first, second = draw.choice(WORDS), draw.choice(WORDS)
    return {"sentence1": first, "sentence2": f"{second} {second}", "label": int(first == second)}


def read_spec(example: str, manifest: str = "job.yaml") -> dict[str, Any]:
    """The spec of an example's job."""
    documents = yaml.safe_load_all((EXAMPLES / example / manifest).read_text())
    return next(dict(each["spec"]) for each in documents if each["kind"] == "DeepSpeedJob")


def run(
    job: Job,
    example: str,
    manifest: str = "job.yaml",
    *more: str,
    attempt: int = 1,
    launcher: str = "",
) -> Outcome:
    """Run an example's job to its end, with more arguments, or another launcher in its command."""
    mount(EXAMPLES / example, job.cluster.code)
    spec = read_spec(example, manifest)
    entrypoint = read_entrypoint(spec["entrypoint"], job.cluster.lib)
    first, *rest = entrypoint.args or ("",)
    args = (launcher or first, *rest, *more) if entrypoint.args else more
    found = {
        "entrypoint": replace(entrypoint, args=args),
        "nodes": spec["nodes"],
        "ranks_per_node": spec["gpusPerNode"],
        **read_deepspeed(spec.get("deepspeed", {}), EXAMPLES / example),
    }
    return job.run(attempt, "", **found)


def mount(example: Path, code: Path) -> None:
    """Put an example's files where programs are found, executable."""
    for old in code.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for file in example.iterdir():
        copy = Path(shutil.copy(file, code))
        copy.chmod(copy.stat().st_mode | stat.S_IXUSR)


def read_entrypoint(given: Mapping[str, Any], lib: str) -> Entrypoint:
    """The entrypoint as the operator would put it into the contract, the image's files in `lib`."""
    kind = next(kind for kind in EntrypointKind if kind in given)
    words = given[kind] if isinstance(given[kind], list) else [given[kind]]
    data = [
        DataSource(
            each["name"],
            each["format"],
            tuple(path.replace("/workspace", lib) for path in each["paths"]),
        )
        for each in given.get("data", [])
    ]
    return Entrypoint(
        kind,
        words[0],
        (*words[1:], *given.get("args", [])),
        given.get("config", {}),
        local_rank_arg=given.get("localRankArg", True),
        sizing=given.get("sizing", "Job"),
        per=given.get("per", "Rank"),
        data=tuple(data),
    )


def read_deepspeed(given: Mapping[str, Any], example: Path) -> dict[str, Any]:
    """Configuration and variables, from the job or from files of the folder."""
    config = given.get("config")
    if "configMap" in given:
        config = json.loads((example / given["configMap"].get("key", "ds_config.json")).read_text())
    env = dict(given.get("env", {}))
    if "envFile" in given:
        name = given["envFile"]["configMap"].get("key", ".deepspeed_env")
        lines = (example / name).read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines if line and line[0] != "#") | env
    return {"deepspeed_config": config, "env": env}
