"""The cluster's certificates: one authority, and a certificate per component and right.

Made anew for every cluster, with elliptic-curve keys because those take milliseconds. Users and
groups are those that Kubernetes' own roles are bound to. Kubeconfigs carry their certificate and
key inside, so that one file is enough to hand on.
"""

import base64
import datetime as dt
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster.slots import Place

VALID = dt.timedelta(days=3650)
# Clocks of machines that are suspended and resumed may lag behind.
BACKDATED = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate file and its key file."""

    cert: Path
    key: Path


class Authority:
    """The cluster's certificate authority and the folder it writes to."""

    def __init__(self, folder: Path, now: dt.datetime) -> None:
        self.folder, self.now = folder, now
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "devcluster authority")])
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True,
            content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        self.cert = (
            self._builder(self.name, self.key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cert_path.write_bytes(_pem(self.cert))

    @property
    def cert_path(self) -> Path:
        """The certificate of the authority."""
        return self.folder / "ca.crt"

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - BACKDATED)
            .not_valid_after(self.now + VALID)
        )

    def issue(
        self, file: str, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> Pair:
        """Write FILE.crt and FILE.key, valid for a client named so and a server of these hosts."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(subject, key.public_key())
        if hosts:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
            known_as = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
            builder = builder.add_extension(known_as, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        pair = Pair(self.folder / f"{file}.crt", self.folder / f"{file}.key")
        pair.cert.write_bytes(_pem(builder.sign(self.key, hashes.SHA256())))
        write_key(pair.key, key)
        return pair

    def kubeconfig(self, file: str, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """Write FILE.kubeconfig for a client with this name and these groups."""
        pair = self.issue(file, user, groups)
        path = self.folder / f"{file}.kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "devcluster",
            "contexts": [
                {"name": "devcluster", "context": {"cluster": "devcluster", "user": user}}
            ],
            "clusters": [
                {
                    "name": "devcluster",
                    "cluster": {
                        "server": server,
                        "certificate-authority-data": _base64(self.cert_path),
                    },
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _base64(pair.cert),
                        "client-key-data": _base64(pair.key),
                    },
                }
            ],
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(document, indent=1))
        return path


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.PEM)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key that only its owner may read."""
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )


def api_server_hosts(place: Place) -> list[str]:
    """Every name and address under which clients may call the API server."""
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
    names += ["kubernetes.default.svc.cluster.local", "localhost"]
    return [*names, "127.0.0.1", place.gateway, place.api_service]


def make_cluster_pki(folder: Path, place: Place, server: str, node_names: Sequence[str]) -> None:
    """Write the authority, the servers' certificates and the clients' kubeconfigs of a cluster."""
    authority = Authority(folder, dt.datetime.now(dt.UTC))  # noqa: TID251 (certificates begin now)
    authority.issue("etcd", "etcd", hosts=["localhost", "127.0.0.1"])
    authority.issue("kube-apiserver", "kube-apiserver", hosts=api_server_hosts(place))
    authority.issue("kubelet-client", "kube-apiserver-kubelet-client")
    authority.issue("loopback", "localhost", hosts=["localhost", "127.0.0.1"])
    write_key(folder / "service-accounts.key", ec.generate_private_key(ec.SECP256R1()))
    for component in ("kube-controller-manager", "kube-scheduler", "kube-proxy"):
        authority.kubeconfig(component, server, f"system:{component}")
    authority.kubeconfig("admin", server, "devcluster-admin", ["system:masters"])
    for component in ("coredns", "kuberay", "kwok", "kueue"):
        authority.kubeconfig(component, server, f"devcluster:{component}")
    for index, node in enumerate(node_names):
        authority.kubeconfig(node, server, f"system:node:{node}", ["system:nodes"])
        authority.issue(f"{node}-server", node, hosts=[node, place.node_address(index)])
