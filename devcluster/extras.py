"""What a cluster has beside when asked for: fake nodes, Kueue, an S3 server.

None of it is built or started for a cluster that did not ask.
"""

from functools import partial

from devcluster import fakenodes, kueue, s3
from devcluster.controlplane import ControlPlane
from devcluster.options import Options
from devcluster.steps import Step


def build_steps(options: Options) -> list[Step]:
    """The programs that these options need."""
    steps = [fakenodes.build_step()] if options.fake_nodes else []
    steps += [kueue.build_step()] if options.kueue else []
    return steps + ([s3.build_step()] if options.s3 else [])


def start_steps(plane: ControlPlane, options: Options) -> list[Step]:
    """The steps that start them, in a cluster whose API server is among the steps."""
    steps = []
    if options.fake_nodes:
        make = partial(fakenodes.start, plane=plane, count=options.fake_nodes)
        steps.append(Step("fake nodes", make, ("controllers", "access and storage")))
    if options.kueue:
        install, begin = partial(kueue.install, plane=plane), partial(kueue.start, plane=plane)
        # Its webhooks are in the way of everybody as long as nobody answers them: they come last.
        hook = partial(kueue.install_webhooks, plane=plane)
        steps += [
            Step("kueue resources", install, ("access and storage",)),
            Step("kueue", begin, ("kueue resources", "kuberay resources")),
            Step("kueue webhooks", hook, ("kueue",)),
        ]
    if options.s3:
        steps.append(Step("s3", partial(s3.start, plane=plane), ("api server",)))
    return steps


def components(options: Options) -> list[str]:
    """The names under which their programs are recorded."""
    wanted = {
        fakenodes.COMPONENT: options.fake_nodes,
        kueue.COMPONENT: options.kueue,
        s3.COMPONENT: options.s3,
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]
