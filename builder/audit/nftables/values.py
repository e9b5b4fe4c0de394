"""What may stand after a field in a rule: ports, addresses, types."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

ICMP_TYPES: Final = frozenset(
    ["destination-unreachable", "echo-request", "echo-reply", "time-exceeded", "parameter-problem"]
)
ICMP_CODES: Final = frozenset(
    ["net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable", "frag-needed"]
)
ICMPV6_TYPES: Final = frozenset(
    [
        "destination-unreachable", "packet-too-big", "time-exceeded", "parameter-problem", "echo-request",
        "echo-reply", "mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report",
        "nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "nd-redirect",
    ]
)  # fmt: skip
#: Transport protocols, of "meta l4proto".
PROTOCOLS: Final = frozenset(["tcp", "udp", "icmp", "icmpv6"])
TCP_FLAGS: Final = frozenset(["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"])


def port(text: str) -> str:
    """Return a port from 1 to 65535 as nft lists it; ValueError for all else."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 0 < int(text) <= 65535:
        raise ValueError("no port")
    return str(int(text))


def byte(text: str) -> str:
    """Return a number from 0 to 255; ValueError for all else."""
    if not text.isascii() or not text.isdigit() or len(text) > 3 or int(text) > 255:
        raise ValueError("no number of a byte")
    return str(int(text))


def network(version: int) -> Callable[[str], str]:
    """Return a check for addresses and prefixes of an IP version."""

    def check(text: str) -> str:
        network = ipaddress.ip_network(text, strict=True)
        if network.version != version:
            raise ValueError(f"no IPv{version} address")
        return str(network)

    return check


def one_of(known: frozenset[str]) -> Callable[[str], str]:
    """Return a check for a word out of a list."""

    def check(text: str) -> str:
        if text not in known:
            raise ValueError("a type that is not known to this audit")
        return text

    return check
