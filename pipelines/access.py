"""Who may use the Ray cluster that was joined? Anyone who reaches it, where it asks for no token.

Whoever may talk to Ray may run programs on every machine of it, so a cluster without authentication that
other machines reach is named to the person who joins it.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence

import grpc
import ray

_SECONDS = 10
_QUESTION = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # as harmless as any, and refused without a token


def open_at() -> list[str]:
    """Addresses at which the joined cluster does what anybody asks; none where it asks for a token."""
    reached = beyond_loopback([node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]])
    return reached if reached and _is_open() else []


def beyond_loopback(addresses: Sequence[str]) -> list[str]:
    """Those of some addresses that other machines reach."""
    return sorted({address for address in addresses if not _is_loopback(address)})


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_open() -> bool:
    """Whether the cluster answers a question that carries no token.

    The cluster itself is asked: what this process is set to (RAY_AUTH_MODE) says nothing about it. Where it
    cannot be asked, through a ``ray://`` server, its clients must be set as it is.
    """
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return False  # it asks for a certificate
    address = None if ray.util.client.ray.is_connected() else ray.get_runtime_context().gcs_address
    if address:
        answer = answers_anybody(address)
        if answer is not None:
            return answer
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return not is_token_auth_enabled()


def answers_anybody(address: str) -> bool | None:
    """Whether the Ray head at ``host:port`` answers without a token; None where it cannot be reached."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(_QUESTION)(b"", timeout=_SECONDS)
        except grpc.RpcError as error:
            refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
            return False if error.code() in refused else None
    return True


def warning(addresses: Sequence[str]) -> str:
    """What to tell a person about a cluster that is open at some addresses."""
    where = ", ".join(addresses[:3]) + (f" and {len(addresses) - 3} more" if len(addresses) > 3 else "")
    return (
        f"warning: this Ray cluster asks for no token, so anyone who reaches it ({where}) can run programs on"
        " all its machines: start it with RAY_AUTH_MODE=token, as docs/security.md tells"
    )
