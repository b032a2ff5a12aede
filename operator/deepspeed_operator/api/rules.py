"""Rules between fields of the spec: CEL that the API server runs, with a sentence for people."""

from deepspeed_operator.api.schema import rule, rules

KINDS = ("script", "module", "command", "function", "driver")

SOURCES = ("git", "archive", "configMap", "volume")

FIXED_OPTIONAL = (
    "image",
    "storage",
    "code",
    *(f"entrypoint.{kind}" for kind in KINDS),
    "entrypoint.args",
    "entrypoint.data",
    "entrypoint.workingDir",
)
"""Fields that may neither appear nor vanish; rules on the fields themselves keep their values."""

SPEC_RULES = rules(
    rule(
        f"[{', '.join(f'has(self.entrypoint.{kind})' for kind in KINDS)}].filter(x, x).size() == 1",
        f"set exactly one of {', '.join(f'entrypoint.{kind}' for kind in KINDS)}",
        path=".entrypoint",
    ),
    rule(
        "!has(self.entrypoint.config) || has(self.entrypoint.function)",
        "entrypoint.config is the argument of entrypoint.function; others take args",
        path=".entrypoint.config",
    ),
    rule(
        "!has(self.entrypoint.data) || size(self.entrypoint.data) == 0"
        " || has(self.entrypoint.function)",
        "entrypoint.data is for entrypoint.function; the others read their own data",
        path=".entrypoint.data",
    ),
    rule(
        "!has(self.entrypoint.args) || size(self.entrypoint.args) == 0"
        " || has(self.entrypoint.script) || has(self.entrypoint.module)"
        " || has(self.entrypoint.driver)",
        "entrypoint.args are for script, module and driver; a function takes config, a command"
        " holds its own arguments",
        path=".entrypoint.args",
    ),
    rule(
        "!has(self.entrypoint.localRankArg) || self.entrypoint.localRankArg"
        " || has(self.entrypoint.script) || has(self.entrypoint.module)",
        "entrypoint.localRankArg: false is for script and module; the others get no --local_rank",
        path=".entrypoint.localRankArg",
    ),
    rule(
        "!has(self.entrypoint.distributed) || self.entrypoint.distributed"
        " || !has(self.entrypoint.function)",
        "a function always runs in a process group; remove entrypoint.distributed",
        path=".entrypoint.distributed",
    ),
    rule(
        "!has(self.entrypoint.per) || self.entrypoint.per == 'Rank'"
        " || has(self.entrypoint.command)",
        "entrypoint.per: Node is for entrypoint.command; the others have no launcher to call",
        path=".entrypoint.per",
    ),
    rule(
        "!has(self.entrypoint.sizing) || self.entrypoint.sizing == 'Job'"
        " || has(self.entrypoint.driver)",
        "entrypoint.sizing: Program is for entrypoint.driver, which has a ScalingConfig of its own",
        path=".entrypoint.sizing",
    ),
    rule(
        "!has(self.preemption) || !has(self.preemption.signal)"
        " || !(has(self.entrypoint.function) || has(self.entrypoint.driver))",
        "preemption.signal is for script, module and command: the train loops of a function and of"
        " a driver run where Python handles no signals",
        path=".preemption.signal",
    ),
    rule(
        "!has(self.code)"
        f" || [{', '.join(f'has(self.code.{source})' for source in SOURCES)}].filter(x, x).size()"
        " == 1",
        f"set exactly one of {', '.join(f'code.{source}' for source in SOURCES)}",
        path=".code",
    ),
    rule(
        "!has(self.code) || !(has(self.code.git) || has(self.code.archive)) || has(self.storage)",
        "code.git and code.archive need storage, where the run keeps its own copy of the code",
        path=".storage",
    ),
    rule(
        "!has(self.code) || !has(self.code.archive) || !has(self.code.archive.secretRef)"
        " || !self.code.archive.uri.startsWith('storage://')",
        "code.archive.secretRef is for other places; the job's own storage has its own credentials",
        path=".code.archive.secretRef",
    ),
    rule(
        "!has(self.storage) || has(self.storage.volumeClaim) != has(self.storage.uri)",
        "set exactly one of storage.volumeClaim and storage.uri",
        path=".storage",
    ),
    rule(
        "!has(self.storage) || !has(self.storage.secretRef) || has(self.storage.uri)",
        "storage.secretRef holds the credentials of storage.uri; a volumeClaim takes none",
        path=".storage.secretRef",
    ),
    rule(
        "!has(self.checkpoint) || !has(self.checkpoint.resume)"
        " || has(self.checkpoint.resume.from)"
        " == (has(self.checkpoint.resume.mode) && self.checkpoint.resume.mode == 'From')",
        "checkpoint.resume.mode: From and checkpoint.resume.from go together",
        path=".checkpoint.resume.from",
    ),
    rule(
        "!has(self.checkpoint) || !has(self.checkpoint.resume)"
        " || !has(self.checkpoint.resume.from) || has(self.storage)",
        "checkpoint.resume.from names a run on the job's storage; set storage",
        path=".storage",
    ),
    rule(
        "!has(self.deepspeed) || !(has(self.deepspeed.config) && has(self.deepspeed.configMap))",
        "set at most one of deepspeed.config and deepspeed.configMap",
        path=".deepspeed",
    ),
    rule(
        "!has(self.accelerator) || self.accelerator.type != 'CPU'"
        " || !has(self.accelerator.resourceName)",
        "accelerator.resourceName has no meaning when accelerator.type is CPU; remove it",
        path=".accelerator.resourceName",
    ),
    rule(
        "self.nodes == oldSelf.nodes || has(self.storage)",
        "without storage nodes cannot be changed after creation: there is nothing to continue from;"
        " delete the job and create it anew",
        path=".nodes",
    ),
    *(
        rule(
            f"has(self.{name}) == has(oldSelf.{name})",
            f"{name} cannot be changed after creation; delete the job and create it anew",
            path=f".{name}",
        )
        for name in FIXED_OPTIONAL
    ),
)
"""Rules between fields of the spec; put on the spec by tools/gen.py through the model below."""
