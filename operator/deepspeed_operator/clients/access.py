"""Who we are to the API server: the account of our pod, or a kubeconfig on somebody's desk.

One source for both of our connections: our own client and kopf's watches.  Certificates, token
rotation and exec plugins are the official client's business.
"""

from dataclasses import dataclass

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from deepspeed_operator.errors import ApiUnreachable

MAX_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Access:
    """The API server's address and the credentials of this moment."""

    server: str
    ca_file: str | None
    insecure: bool
    scheme: str | None
    token: str | None
    cert_file: str | None
    key_file: str | None


async def load_configuration() -> Configuration:
    """Return the official client's configuration: in a pod its account, elsewhere KUBECONFIG.

    Raises:
        ApiUnreachable: neither is there.
    """
    configuration = Configuration()
    configuration.connection_pool_maxsize = MAX_CONNECTIONS
    try:
        load_incluster_config(client_configuration=configuration)
    except ConfigException:
        try:
            await load_kube_config(client_configuration=configuration)
        except ConfigException as error:
            raise ApiUnreachable(
                f"no way to reach an API server: not in a pod, and {error};"
                " set KUBECONFIG to a file that names your cluster"
            ) from error
    return configuration


async def load_access() -> Access:
    """Read address and credentials anew, as after a rotation."""
    found = await load_configuration()
    header = await found.get_api_key_with_prefix("BearerToken") or ""
    scheme, _, token = header.strip().rpartition(" ")
    return Access(
        server=found.host,
        ca_file=found.ssl_ca_cert,
        insecure=not found.verify_ssl,
        scheme=(scheme.capitalize() or "Bearer") if token else None,
        token=token or None,
        cert_file=found.cert_file,
        key_file=found.key_file,
    )
