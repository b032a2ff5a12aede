import base64
import ipaddress
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from devcluster.api import ApiClient
from devcluster.pki import make_cluster_pki
from devcluster.slots import Place

PLACE = Place(3)
SERVER = f"https://{PLACE.gateway}:21060"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    make_cluster_pki(folder, PLACE, SERVER, ["node0", "node1"])
    return folder


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def hosts(cert: x509.Certificate) -> set[str]:
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *map(str, addresses)}


def who(cert: x509.Certificate) -> tuple[str, set[str]]:
    name = cert.subject
    groups = {str(g.value) for g in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}
    return str(name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value), groups


def test_the_api_server_is_known_under_every_name_that_clients_use(folder: Path) -> None:
    known = hosts(certificate(folder / "kube-apiserver.crt"))
    assert known >= {"localhost", "127.0.0.1", "kubernetes.default.svc", "kubernetes"}
    assert known >= {PLACE.gateway, PLACE.api_service}


def test_a_kubelet_is_known_by_its_own_address_and_no_other(folder: Path) -> None:
    known = hosts(certificate(folder / "node1-server.crt"))
    assert known == {"node1", PLACE.node_address(1)}


@pytest.mark.parametrize(
    ("config", "user", "groups"),
    [
        ("admin", "devcluster-admin", {"system:masters"}),
        ("kube-controller-manager", "system:kube-controller-manager", set()),
        ("kube-scheduler", "system:kube-scheduler", set()),
        ("kube-proxy", "system:kube-proxy", set()),
        ("node0", "system:node:node0", {"system:nodes"}),
        ("kuberay", "devcluster:kuberay", set()),
        ("coredns", "devcluster:coredns", set()),
    ],
)
def test_each_client_has_its_own_name_and_groups(
    folder: Path, config: str, user: str, groups: set[str]
) -> None:
    document = json.loads((folder / f"{config}.kubeconfig").read_text())
    entry = document["users"][0]["user"]
    cert = x509.load_pem_x509_certificate(base64.b64decode(entry["client-certificate-data"]))
    assert who(cert) == (user, groups)
    assert document["clusters"][0]["cluster"]["server"] == SERVER


def test_no_kubeconfig_trusts_blindly_or_carries_a_token(folder: Path) -> None:
    texts = [path.read_text() for path in folder.glob("*.kubeconfig")]
    assert texts
    assert not [text for text in texts if "insecure" in text or "token" in text]


def test_every_certificate_is_signed_by_the_one_authority(folder: Path) -> None:
    authority = certificate(folder / "ca.crt")
    for path in folder.glob("*.crt"):
        if path.name != "ca.crt":
            certificate(path).verify_directly_issued_by(authority)
            # OpenSSL takes a certificate that is called as its issuer for self-signed.
            assert certificate(path).subject != authority.subject


def test_a_client_certificate_cannot_serve(folder: Path) -> None:
    usage = certificate(folder / "kubelet-client.crt").extensions.get_extension_for_class(
        x509.ExtendedKeyUsage
    )
    assert list(usage.value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_keys_are_for_their_owner_only(folder: Path) -> None:
    modes = {
        stat.S_IMODE(p.stat().st_mode) for p in (*folder.glob("*.key"), *folder.glob("*config"))
    }
    assert modes == {0o600}


def test_our_own_client_can_read_the_kubeconfig(folder: Path) -> None:
    assert ApiClient(folder / "admin.kubeconfig").server == SERVER


def test_addresses_are_addresses_and_not_names(folder: Path) -> None:
    cert = certificate(folder / "kube-apiserver.crt")
    found = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert ipaddress.IPv4Address(PLACE.gateway) in found.get_values_for_type(x509.IPAddress)
