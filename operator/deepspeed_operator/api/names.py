"""Every name that users and other programs see: labels, conditions, reasons and field owner.

A reason is a constant with one sentence of documentation; messages are made where the facts are.
Nothing here computes anything but the length-bounded names of children.
"""

import hashlib
from enum import StrEnum
from typing import Final

GROUP: Final = "dsjob.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DeepSpeedJob"
PLURAL: Final = "deepspeedjobs"

RAY_GROUP: Final = "ray.io"
RAY_VERSION: Final = "v1"
RAY_API_VERSION: Final = f"{RAY_GROUP}/{RAY_VERSION}"

FIELD_OWNER: Final = "deepspeed-operator"
"""Field manager of every server-side apply."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "deepspeed-operator"
JOB_LABEL: Final = "dsjob.dev/job-name"
JOB_UID_LABEL: Final = "dsjob.dev/job-uid"
RAY_CLUSTER_LABEL: Final = "ray.io/cluster"
RAY_NODE_TYPE_LABEL: Final = "ray.io/node-type"
SELECTOR: Final = f"{MANAGED_BY_LABEL}={MANAGED_BY}"
"""Children carry this label; watches are narrowed to it on the server."""

MAX_CLUSTER_NAME: Final = 53
"""KubeRay refuses longer RayCluster names, and says so in an Event alone."""


class ConditionType(StrEnum):
    """Types of status.conditions.  Ready, Reconciling and Stalled have the meaning of kstatus."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    CLUSTER_READY = "ClusterReady"
    RUNNING = "Running"
    COMPLETE = "Complete"
    FAILED = "Failed"
    FINISHED = "Finished"
    CHECKPOINT_STORAGE_FULL = "CheckpointStorageFull"
    """There once a save was skipped for want of room; False again once one counts."""
    OLDER_RUNS = "OlderRuns"
    """There once a run began at step 0 though older runs of the job's name have checkpoints."""


class Phase(StrEnum):
    """One word for people and printer columns.  No program decides by it."""

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Reason(StrEnum):
    """Reasons of conditions and events."""

    # Waiting for something that only the user or the platform can bring.
    INVALID_SPEC = "InvalidSpec"
    """The spec passed the API server but this operator cannot run it."""
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    """A ConfigMap (or its key) that the job names does not exist."""
    DEEPSPEED_CONFIG_INVALID = "DeepSpeedConfigInvalid"
    """The DeepSpeed configuration is not one that DeepSpeed would accept."""
    ENVIRONMENT_INVALID = "EnvironmentInvalid"
    """A variable of deepspeed.env or deepspeed.envFile is none, or is the trainer's own."""
    STORAGE_MISSING = "StorageMissing"
    """More than one node and no storage that all of them share."""
    CLAIM_MISSING = "ClaimMissing"
    """The PersistentVolumeClaim does not exist."""
    CLAIM_NOT_SHARED = "ClaimNotShared"
    """The PersistentVolumeClaim cannot be mounted by several nodes."""
    KUBERAY_MISSING = "KubeRayMissing"
    """The API server does not serve ray.io/v1 RayClusters."""
    ACCELERATOR_MISSING = "AcceleratorMissing"
    """No node offers enough of the accelerator's resource."""

    # On the way.
    CLUSTER_STARTING = "ClusterStarting"
    """The RayCluster was asked for and its pods are coming up."""
    UNSCHEDULABLE = "Unschedulable"
    """The scheduler finds no place for a pod; its own words are in the message."""
    IMAGE_PULL_FAILING = "ImagePullFailing"
    """A node cannot pull the image; the attempt fails if this lasts."""
    POD_CONFIG_ERROR = "PodConfigError"
    """The kubelet cannot make a container, for instance for want of a Secret."""
    KUBERAY_SILENT = "KubeRaySilent"
    """The RayCluster exists but KubeRay has made no pods for it."""
    CLUSTER_READY = "ClusterReady"
    """The head and all workers are ready."""
    SUBMITTING = "Submitting"
    """The run is being handed to the head."""
    HEAD_UNREACHABLE = "HeadUnreachable"
    """The head does not answer; the run may well go on."""
    HEAD_REFUSES_TOKEN = "HeadRefusesToken"  # noqa: S105  a reason, not a secret
    """The head answers 401: its token is not the one that this operator derived."""
    RUNNING = "Running"
    """The run was started by the head."""
    RESTARTING = "Restarting"
    """An attempt failed and another one follows."""
    RESIZED = "Resized"
    """Another number of nodes is wanted; the attempt ended for it and another one follows."""
    RANKS_RESTARTED = "RanksRestarted"
    """Ranks failed in healthy pods and were started again there; of Events alone."""
    OLDER_RUNS = "OlderRuns"
    """The run began at step 0, and the message names older ones that could be continued."""
    FENCING = "Fencing"
    """Pods of the attempt before may still run; the next one waits until they cannot."""
    SAVE_SKIPPED = "SaveSkipped"
    """The newest save found no room on the job's storage; the training goes on without it."""
    SAVED = "Saved"
    """A checkpoint counts since a save was skipped."""

    # The end.
    SUCCEEDED = "Succeeded"
    """Every rank ended with exit code 0."""
    RUN_FAILED = "RunFailed"
    """The training program failed and the restart budget is spent."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The image could not be pulled; no retry can help."""
    CODE_REFUSED = "CodeRefused"
    """The code of spec.code cannot be had as it is asked for; no retry can help."""
    CODE_UNAVAILABLE = "CodeUnavailable"
    """The code of spec.code could not be fetched; another attempt may."""
    IMAGE_UNSUPPORTED = "ImageUnsupported"
    """The trainer cannot run in the image; what it lacks is in the message; no retry can help."""
    HEAD_LOST = "HeadLost"
    """The head pod that held the run is gone."""
    POD_FAILED = "PodFailed"
    """A pod ended before the cluster was ready."""
    CLUSTER_LOST = "ClusterLost"
    """The RayCluster of a running attempt was deleted by somebody."""
    NOT_FINISHED = "NotFinished"
    """The job has not reached its end."""


def derive_cluster_name(job_name: str, job_uid: str, attempt: int) -> str:
    """Return the RayCluster's name for an attempt that needs a new one.

    Readable, unique for each job UID and attempt, a DNS-1035 label and at most 53 characters:
    a long job name is cut, the digest of the UID keeps cut names apart.
    """
    digest = hashlib.sha256(job_uid.encode()).hexdigest()[:6]
    suffix = f"-{digest}-{attempt}"
    stem = job_name.replace(".", "-")[: MAX_CLUSTER_NAME - len(suffix)].rstrip("-")
    if not stem[0].isalpha():
        stem = f"j{stem}"[: MAX_CLUSTER_NAME - len(suffix)]
    return f"{stem}{suffix}"


def derive_submission_id(cluster: str, attempt: int) -> str:
    """Return the Ray submission id of an attempt: the same for every try to submit it."""
    return f"{cluster}-a{attempt}"
