"""What `status` tells: where a cluster's things are, and how its components are.

For people as text, for programs as one JSON object with the same content.
"""

from dataclasses import asdict
from typing import Any

from devcluster import faults, processes, s3
from devcluster.cluster import Cluster


def describe(cluster: Cluster) -> dict[str, Any]:
    """Everything about a cluster that can be looked up without changing it."""
    return {
        "name": cluster.name,
        "healthy": not (ailments := cluster.ailments()),
        "ailments": ailments,
        "slot": cluster.place.slot,
        "options": asdict(cluster.options),
        "server": cluster.server,
        "kubeconfig": str(cluster.kubeconfig),
        "auditLog": str(cluster.audit_log),
        "logs": str(cluster.home.folder / "logs"),
        "volumes": str(cluster.control_plane.volumes),
        "s3": str(s3.environment_file(cluster.folder)) if cluster.options.s3 else None,
        "networks": {
            "nodes": cluster.place.node_network,
            "pods": cluster.place.pod_network,
            "services": cluster.place.service_network,
        },
        "nodes": [
            {
                "name": node.name,
                "address": cluster.place.node_address(node.index),
                "containerd": str(node.socket),
                "state": faults.of(node).told or "as it should be",
            }
            for node in cluster.nodes
        ],
        "components": {
            name: {"running": processes.runs(cluster.home, name), "pid": _pid(cluster, name)}
            for name in cluster.components()
        },
    }


def _pid(cluster: Cluster, component: str) -> int | None:
    process = processes.recorded(cluster.home, component)
    return process.pid if process else None


def as_text(found: dict[str, Any]) -> str:
    """The same for people."""
    state = "healthy" if found["healthy"] else "NOT healthy: " + "; ".join(found["ailments"])
    lines = [
        f"{found['name']}: {state}",
        f"  API server  {found['server']}",
        f"  kubeconfig  {found['kubeconfig']}",
        f"  audit log   {found['auditLog']}",
        f"  logs        {found['logs']}",
        f"  volumes     {found['volumes']}",
    ]
    lines += [f"  S3          {found['s3']}"] if found["s3"] else []
    lines += [f"  {n['name']:11} {n['address']:15} {n['state']}" for n in found["nodes"]]
    for name, component in found["components"].items():
        mark = f"pid {component['pid']}" if component["running"] else "not running"
        lines.append(f"  {name:28} {mark}")
    return "\n".join(lines)
