"""The quickstart as the demo and the tests submit it: its file, or a copy that fits a cluster."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from devcluster.paths import written_whole
from tools.target import Target

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "examples" / "quickstart" / "job.yaml"
COPY = ROOT / "build" / "quickstart" / "job.yaml"
NAMESPACE = "default"

Object = dict[str, Any]


def read_documents() -> list[Object]:
    """The claim and the job, as they are in the file."""
    return list(yaml.safe_load_all(MANIFEST.read_text()))


def job_name() -> str:
    """The name of the example's job, as its manifest says."""
    return next(str(d["metadata"]["name"]) for d in read_documents() if d["kind"] == "DeepSpeedJob")


def fit(documents: Iterable[Mapping[str, Any]], target: Target) -> list[Object]:
    """The same objects with a cluster's storage, images and labels; what fits already stays."""
    return [_fit_one(document, target) for document in documents]


def manifest_for(target: Target) -> Path:
    """The example's file, or a copy that fits this cluster."""
    documents = read_documents()
    fitted = fit(documents, target)
    if fitted == documents:
        return MANIFEST
    with written_whole(COPY) as beside:
        beside.write_text(yaml.safe_dump_all(fitted, sort_keys=False))
    return COPY


def _fit_one(document: Mapping[str, Any], target: Target) -> Object:
    spec, metadata = dict(document["spec"]), dict(document["metadata"])
    if document["kind"] == "PersistentVolumeClaim":
        spec["storageClassName"] = target.storage_class
    elif spec["image"] != target.images.quickstart:
        spec["image"] = target.images.quickstart
        spec["imagePullPolicy"] = target.images.pull_policy
    if target.labels:
        metadata["labels"] = {**metadata.get("labels", {}), **target.labels}
    return {**document, "metadata": metadata, "spec": spec}
