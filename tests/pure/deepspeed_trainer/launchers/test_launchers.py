"""What a launcher's words mean for a job: what is read, what is left to it, what is refused."""

import pytest

from deepspeed_trainer.launchers.flags import FLAGS
from deepspeed_trainer.launchers.hosts import read_hostfile, share_cores
from deepspeed_trainer.launchers.read import read_env_file, read_launch
from deepspeed_trainer.launchers.request import (
    LauncherRefused,
    LaunchRequest,
    ProgramKind,
    refuse_other_size,
)

HOSTS = {"pod-a": 2, "pod-b": 2}
FILES = {
    "hosts": "worker-1 slots=4  # big\n\nworker-2 slots=4\n",
    "pdsh": "worker-1 slots=2 max_slots=8\nworker-2\tslots=2# no blank\n",
    "uneven": "worker-1 slots=4\nworker-2 slots=2\n",
}


def read(line: str) -> LaunchRequest:
    launcher, *words = line.split()
    return read_launch(launcher, words, hosts=HOSTS, read_file=FILES.get)


@pytest.mark.seed("S3", "--no_python, --no_local_rank, --exclude, --num_nodes, --num_gpus")
@pytest.mark.parametrize(
    ("line", "nodes", "ranks_per_node"),
    [
        ("deepspeed train.py", 2, 2),
        ("deepspeed --hostfile=absent train.py", 2, 2),
        ("deepspeed --hostfile /job/hostfile train.py", 2, 2),
        ("deepspeed -H hosts train.py", 2, 4),
        ("deepspeed -H pdsh train.py", 2, 2),
        ("deepspeed --hostfile hosts --include worker-2 train.py", 1, 4),
        ("deepspeed --hostfile hosts -i worker-1:0,1@worker-2:2,3 train.py", 2, 2),
        ("deepspeed --hostfile hosts -e worker-1:0@worker-2:3 train.py", 2, 3),
        ("deepspeed --hostfile hosts --exclude worker-1 train.py", 1, 4),
        ("deepspeed --hostfile hosts --num_nodes 1 --num_gpus=3 train.py", 1, 3),
        ("deepspeed --num_accelerators 8 train.py", 2, 8),
        ("deepspeed --num_nodes 5 train.py", 5, 2),
        ("deepspeed --num_nodes -1 --num_gpus -1 train.py", 2, 2),
        ("torchrun train.py", None, None),
        ("torchrun --standalone --nproc-per-node=2 train.py", 1, 2),
        ("torchrun --nnodes 2 --nproc_per_node gpu train.py", 2, None),
        ("mpirun train.py", None, None),
        ("mpirun -np 4 -npernode 2 python train.py", None, 2),
    ],
)
def test_sizes_are_read(line: str, nodes: int | None, ranks_per_node: int | None) -> None:
    request = read(line)
    assert (request.nodes, request.ranks_per_node) == (nodes, ranks_per_node)


def test_localhost_is_the_node_of_a_job_that_has_one() -> None:
    words = "--include localhost:0,1 train.py".split()
    request = read_launch("deepspeed", words, hosts={"pod-a": 2}, read_file=FILES.get)
    assert (request.nodes, request.ranks_per_node) == (1, 2)
    with pytest.raises(LauncherRefused, match="no host 'localhost'; there are pod-a, pod-b"):
        read("deepspeed --include localhost train.py")


def test_what_follows_the_program_is_the_programs_own() -> None:
    request = read("deepspeed --num_gpus 2 train.py --num_gpus 7 -x -- --deepspeed")
    assert request.target == "train.py"
    assert request.args == ("--num_gpus", "7", "-x", "--", "--deepspeed")
    assert request.command_line == "python train.py --num_gpus 7 -x -- --deepspeed"


@pytest.mark.seed("S3", "--no_python, --no_local_rank, --exclude, --num_nodes, --num_gpus")
@pytest.mark.parametrize(
    ("line", "kind", "flag"),
    [
        ("deepspeed a.py", ProgramKind.SCRIPT, "--local_rank"),
        ("deepspeed --no_local_rank a.py", ProgramKind.SCRIPT, None),
        ("deepspeed --module pkg.a", ProgramKind.MODULE, "--local_rank"),
        ("deepspeed --no_python ./a", ProgramKind.PROGRAM, "--local_rank"),
        ("torchrun a.py", ProgramKind.SCRIPT, None),
        ("torchrun -m pkg.a", ProgramKind.MODULE, None),
        ("torchrun --no-python ./a", ProgramKind.PROGRAM, None),
        ("torch.distributed.launch a.py", ProgramKind.SCRIPT, "--local-rank"),
        ("torch.distributed.launch --use_env a.py", ProgramKind.SCRIPT, None),
        ("mpirun ./a", ProgramKind.PROGRAM, None),
    ],
)
def test_a_program_is_started_as_its_launcher_does(
    line: str, kind: ProgramKind, flag: str | None
) -> None:
    request = read(line)
    assert (request.kind, request.local_rank_flag) == (kind, flag)


@pytest.mark.seed(
    "S3", "--launcher, --ssh_port, --elastic_training and others that a job has no use for"
)
def test_how_ranks_meet_is_left_to_the_job() -> None:
    line = "torchrun --rdzv-backend=c10d --rdzv_endpoint=h:1 --node-rank 0 --master_addr h a.py"
    assert read(line).left_to_job == (
        "--rdzv-backend",
        "--rdzv-endpoint",
        "--node-rank",
        "--master-addr",
    )


def test_variables_of_deepspeeds_file_are_taken_from_home_and_from_here() -> None:
    files = {"~/.deepspeed_env": "A=1\nB=1=x\n", ".deepspeed_env": "# why\n\nA=2\n"}
    assert read_env_file(".deepspeed_env", files.get) == {"A": "2", "B": "1=x"}
    with pytest.raises(LauncherRefused, match="mine says 'A'; write NAME=VALUE"):
        read_env_file("mine", {"mine": "A\n"}.get)


@pytest.mark.parametrize(
    ("line", "spans_nodes"),
    [
        ("deepspeed a.py", True),
        ("deepspeed --hostfile hosts --num_nodes 1 a.py", False),
        ("deepspeed --hostfile hosts --num_nodes 1 --force_multi a.py", True),
        ("deepspeed --no_ssh a.py", False),
        ("torchrun --nnodes 2 a.py", False),
        ("mpirun -np 4 a", False),
    ],
)
def test_across_nodes_deepspeed_lets_ranks_import_from_the_working_directory(
    line: str, spans_nodes: bool
) -> None:
    assert read(line).spans_nodes is spans_nodes


def test_variables_of_mpirun_are_taken() -> None:
    request = read("mpirun -x A=1 -x PATH -genv B 2 --mca btl ^openib python a.py -x C=3")
    assert request.env == {"A": "1", "PATH": None, "B": "2"}
    assert request.args == ("a.py", "-x", "C=3")


@pytest.mark.seed(
    "S3", "--launcher, --ssh_port, --elastic_training and others that a job has no use for"
)
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("deepspeed", "required: PROGRAM"),
        ("deepspeed --nonsense a.py", "--nonsense"),
        ("deepspeed --ssh_port 22 a.py", "deepspeed --ssh_port: nothing starts over SSH"),
        ("deepspeed --autotuning run a.py", "--autotuning: its trials start over SSH"),
        ("deepspeed --elastic_training a.py", "DeepSpeed 0.19 took it out"),
        ("deepspeed --module --no_python a", "exclude each other"),
        ("deepspeed -i pod-a -e pod-b a.py", "exclude each other"),
        ("deepspeed -i pod-a --num_gpus 1 a.py", "exclude --include"),
        ("deepspeed -i pod-c a.py", "no host 'pod-c'; there are pod-a, pod-b"),
        ("deepspeed -i pod-a:2 a.py", "pod-a has no slot 2"),
        ("deepspeed -i pod-a:x a.py", "'x' are no slots"),
        ("deepspeed -e pod-a@pod-b a.py", "numbers of slots (none)"),
        ("deepspeed -H uneven a.py", "(worker-1: 4, worker-2: 2)"),
        ("deepspeed -e pod-a:0 a.py", "(pod-a: 1, pod-b: 2)"),
        ("deepspeed --num_gpus two a.py", "two is no positive number"),
        ("torchrun --nnodes 1:4 a.py", "spec.nodes"),
        ("torchrun --nproc-per-node=many a.py", "many is no number"),
        ("torchrun --max-restarts 3 a.py", "failurePolicy.maxRestarts"),
        ("torchrun --run-path a.py", "name the script itself"),
        ("mpirun -np 2 a : -np 2 b", "one program per job"),
        ("mpirun -wdir /x a", "entrypoint.workingDir"),
    ],
)
def test_what_a_job_cannot_do_is_refused_by_name(line: str, says: str) -> None:
    with pytest.raises(LauncherRefused) as refused:
        read(line)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("deepspeed --num_nodes 1 a.py", "deepspeed was asked for 1 nodes, the job has 2: change"),
        ("deepspeed --num_gpus 8 a.py", "8 ranks per node, the job has 2: change spec.gpusPerNode"),
        ("mpirun -np 8 a", "8 ranks, the job has 4"),
    ],
)
def test_another_size_than_the_jobs_is_refused_with_both_numbers(line: str, says: str) -> None:
    with pytest.raises(LauncherRefused) as refused:
        refuse_other_size(read(line), 2, 2)
    assert says in str(refused.value)


@pytest.mark.parametrize("line", ["deepspeed a.py", "torchrun a.py", "mpirun -np 4 a"])
def test_the_jobs_size_is_accepted(line: str) -> None:
    refuse_other_size(read(line), 2, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("worker-1 4\n", "line 1: 'worker-1 4' is not"),
        ("a slots=1\na slots=2\n", "line 2: host a is there twice"),
        ("# nobody\n", "names no host"),
    ],
)
def test_a_hostfile_that_is_none_is_refused(text: str, says: str) -> None:
    with pytest.raises(LauncherRefused) as refused:
        read_hostfile("myhosts", text)
    assert str(refused.value).startswith("myhosts")
    assert says in str(refused.value)


def test_cores_are_shared_evenly() -> None:
    assert share_cores(range(8), None, 1, 3) == [2, 3]
    assert share_cores(range(16), "1,4-6", 1, 2) == [5, 6]
    with pytest.raises(LauncherRefused, match="no core 9"):
        share_cores(range(4), "2,9", 0, 1)
    with pytest.raises(LauncherRefused, match="1 cores cannot be shared by 2"):
        share_cores([3], None, 0, 2)
    with pytest.raises(LauncherRefused, match="'x' is no core"):
        share_cores(range(4), "x", 0, 1)


def test_every_flag_is_read_left_or_refused() -> None:
    for launcher, flags in FLAGS.items():
        for flag in flags:
            assert not (flag.is_read and flag.refusal), (launcher, flag)
        names = [name for flag in flags for name in flag.names]
        assert len(names) == len(set(names)), launcher
