"""The packet filter and what listens behind it (docs/hardening.md, "Network")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from builder.audit.model import Finding, Subject
from builder.audit.nftables.model import Chain, FilterRule, Match, Ruleset, Table, base_chains
from builder.audit.nftables.parse import parse_ruleset
from builder.audit.readers.tree import FileTree
from builder.audit.rules.registry import RuleSet, needs_settings
from builder.audit.units import config_files, load_units, pulled_in
from measurements.errors import FormatError

RULES = RuleSet("Network")

MAIN = "/usr/lib/goldsmith/firewall/rules.nft"
_FIREWALL = "goldsmith-firewall.service"
_HOOKS = ("input", "forward", "output")
_ND = frozenset(
    ["nd-router-solicit", "nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert"]
)  # fmt: skip
_ANSWERS = "& (ack | syn) != syn"
_LINK_LOCAL = "fe80::/10"
#: What may pass beside a service's port: conditions that must all be there, and no more, with no other values.
_INPUT: tuple[dict[str, frozenset[str]], ...] = (
    {"iif": frozenset(["lo"])},
    {"udp sport": frozenset(["67"]), "udp dport": frozenset(["68"])},
    {"ip6 saddr": frozenset([_LINK_LOCAL]), "udp sport": frozenset(["547"]), "udp dport": frozenset(["546"])},
    {"icmpv6 type": _ND, "ip6 hoplimit": frozenset(["255"])},
    {"icmpv6 type": frozenset(["mld-listener-query"]), "ip6 saddr": frozenset([_LINK_LOCAL])},
    {"icmp type": frozenset(["destination-unreachable"]), "icmp code": frozenset(["frag-needed"])},
    {"icmpv6 type": frozenset(["packet-too-big"])},
)
_OUTPUT: tuple[dict[str, frozenset[str]], ...] = (
    {"oif": frozenset(["lo"])},
    {"udp sport": frozenset(["68"]), "udp dport": frozenset(["67"])},
    {
        "ip6 daddr": frozenset([_LINK_LOCAL, "ff02::1:2/128"]),
        "udp sport": frozenset(["546"]),
        "udp dport": frozenset(["547"]),
    },
    {"icmpv6 type": _ND, "ip6 hoplimit": frozenset(["255"])},
    {"ip6 daddr": frozenset(["ff02::16/128"]), "icmpv6 type": frozenset(["mld2-listener-report"])},
)
_ROUTING = [
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.conf.*.accept_redirects", "0"),
    ("net.ipv4.conf.*.accept_source_route", "0"),
    ("net.ipv4.conf.*.rp_filter", "1"),
    ("net.ipv4.conf.*.secure_redirects", "0"),
    ("net.ipv4.conf.*.send_redirects", "0"),
    ("net.ipv4.conf.*.proxy_arp", "0"),
    ("net.ipv4.conf.*.bootp_relay", "0"),
    ("net.ipv4.conf.*.shared_media", "0"),
    ("net.ipv4.icmp_ignore_bogus_error_responses", "1"),
    ("net.ipv4.icmp_echo_ignore_all", "1"),
    ("net.ipv4.icmp_echo_ignore_broadcasts", "1"),
    ("net.ipv4.tcp_rfc1337", "1"),
    ("net.ipv4.tcp_syncookies", "1"),
    ("net.ipv6.conf.*.accept_redirects", "0"),
    ("net.ipv6.conf.*.accept_source_route", "0"),
    ("net.ipv6.conf.*.forwarding", "0"),
    ("net.ipv6.icmp.echo_ignore_all", "1"),
]
_LISTEN = ("ListenStream", "ListenDatagram", "ListenSequentialPacket")
_LOCAL = re.compile(r"(?:/|@|netlink|kobject|audit)")
_PORT = re.compile(r"(?:(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-fA-F:]+\]):)?(\d{1,5})\Z")


def _ruleset(root: FileTree) -> Ruleset:
    def read(pattern: str) -> Sequence[tuple[str, str]]:
        folder, _, name = pattern.rpartition("/")
        if "*" in folder:
            raise FormatError(f"{pattern}: a pattern in a folder's name is not read here")
        regex = re.compile(re.escape(name).replace(r"\*", "[^/]*") + r"\Z")
        paths = [path for path in root.children(folder) if regex.match(path.rpartition("/")[2])]
        return [(path, text) for path in paths if (text := root.text(path)) is not None]

    return parse_ruleset(MAIN, read)


def _parsed(subject: Subject) -> Ruleset:
    try:
        return _ruleset(subject.image.root)
    except FormatError:
        return Ruleset()  # GS-NET-001 says what is wrong with it; the others find no table then, and fail


@RULES.rule(
    "GS-NET-001", "The packet filter's rules parse, to the last statement",
    "write the rule in the known form, or teach builder/audit/nftables.py the statement",
)  # fmt: skip
def parses(subject: Subject) -> Iterator[Finding]:
    """rules.nft and each file that it includes parse strictly: every set, port, address, type and
    interface is well formed, every include and set resolves, no rule asks for both families; the
    transaction begins with `flush ruleset`."""
    try:
        ruleset = _ruleset(subject.image.root)
    except FormatError as error:
        yield Finding(place=f"root:{MAIN}", expected="rules that load", got=str(error))
        return
    if not ruleset.flushes:
        yield Finding(place=f"root:{MAIN}", expected="flush ruleset before the first table", got="none")


@RULES.rule(
    "GS-NET-002", "One table drops by default, in both families and all directions",
    "one table inet with the hooks input, forward and output and policy drop",
)  # fmt: skip
def default_deny(subject: Subject) -> Iterator[Finding]:
    """There is exactly one table, of the family inet, so IPv4 and IPv6 meet the same rules; its chains
    input, forward and output each have the policy drop, and no other chain accepts first."""
    ruleset = _parsed(subject)
    families = [table.family for table in ruleset.tables]
    if families != ["inet"]:
        yield Finding(
            place=f"root:{MAIN}",
            expected="one table of the family inet",
            got=", ".join(families) or "no table",
        )
    chains = [(chain.hook, chain.policy) for _, chain in base_chains(ruleset)]
    if sorted(chains) != sorted((hook, "drop") for hook in _HOOKS):
        yield Finding(
            place=f"root:{MAIN}", expected="input, forward and output with policy drop",
            got=", ".join(f"{hook} {policy}" for hook, policy in chains) or "no chain",
        )  # fmt: skip


@RULES.rule(
    "GS-NET-003", "Only the recipe's ports are open",
    "declare the port under audit.ports with a reason, or take its file out of firewall/services",
)  # fmt: skip
def open_ports(subject: Subject) -> Iterator[Finding]:
    """The ports that the input chain accepts from anybody are those that the recipe declares; every other
    accepting rule is one of: loopback, answers of DHCP, neighbour discovery with hop limit 255, multicast
    queries of the link, path MTU."""
    ruleset = _parsed(subject)
    found: dict[str, str] = {}
    for table, chain in base_chains(ruleset):
        if chain.hook != "input":
            continue
        for rule in _accepting(chain):
            ports = _service_ports(ruleset, table, rule, "dport")
            if ports is not None:
                found |= dict.fromkeys(ports, rule.where)
            elif not _allowed(ruleset, table, rule, _INPUT):
                yield _unknown(rule)
    for port, where in found.items():
        if port not in subject.declared.ports:
            yield Finding(place=f"root:{where}", expected="a port that the recipe declares", got=port)
    for port in subject.declared.ports:
        if port not in found:
            yield Finding(place=f"root:{MAIN}", expected=f"{port} open, as the recipe declares", got="closed")


@RULES.rule(
    "GS-NET-004", "Nothing begins a connection outwards, and nothing is forwarded",
    "answers only: tcp flags & (syn | ack) != syn",
)  # fmt: skip
def no_first_packet(subject: Subject) -> Iterator[Finding]:
    """The output chain accepts from a service's port answers alone (TCP without a first SYN), and beside
    that loopback, DHCP, neighbour discovery and multicast reports; the forward chain accepts nothing."""
    ruleset = _parsed(subject)
    for table, chain in base_chains(ruleset):
        for rule in _accepting(chain):
            if chain.hook == "forward":
                yield _unknown(rule)
            elif chain.hook == "output":
                ports = _service_ports(ruleset, table, rule, "sport")
                known = ports is not None and set(ports) <= set(subject.declared.ports)
                if not known and not _allowed(ruleset, table, rule, _OUTPUT):
                    yield _unknown(rule)


@RULES.rule(
    "GS-NET-005", "What listens and what is open is the same",
    "one port in the .socket unit, in firewall/services and in audit.ports",
)  # fmt: skip
def sockets(subject: Subject) -> Iterator[Finding]:
    """The `.socket` units of the root listen on the declared ports of IP and on local addresses, and on
    nothing else: no vsock, no other protocol; each declared port has a listener."""
    heard: dict[str, str] = {}
    for unit in load_units(subject.image.root).values():
        if unit.kind != "socket" or unit.masked:
            continue
        for section, key, value in unit.settings:
            if section != "Socket" or not key.startswith("Listen") or not value:
                continue
            place, port = f"root:{unit.path}", _PORT.match(value)
            if key in _LISTEN and port is not None:
                heard[f"{'tcp' if key == 'ListenStream' else 'udp'}/{int(port[1])}"] = place
            elif key in _LISTEN and not _LOCAL.match(value):
                yield Finding(place=place, expected="a port or a local address", got=f"{key}={value}")
    for name, place in heard.items():
        if name not in subject.declared.ports:
            yield Finding(place=place, expected="a port that the recipe declares", got=name)
    for name in subject.declared.ports:
        if name not in heard:
            yield Finding(
                place="root:/usr/lib/systemd/system", expected=f"a .socket unit for {name}", got="none"
            )


@RULES.rule(
    "GS-NET-006", "The filter is loaded before there is a network, or the machine stops",
    "include common/hardening; enable goldsmith-firewall.service",
)  # fmt: skip
def loaded_first(subject: Subject) -> Iterator[Finding]:
    """goldsmith-firewall.service loads exactly rules.nft, is required by sysinit.target, runs before
    network-pre.target, and powers off when it fails; systemd-networkd, where it is there, comes after
    network-pre.target."""
    root = subject.image.root
    units = load_units(root)
    unit = units.get(_FIREWALL)
    if unit is None or unit.masked:
        yield Finding(place=f"root:{_FIREWALL}", expected="the unit", got="absent or masked")
        return
    place = f"root:{unit.path}"
    if [line for _, line in unit.programs()] != [f"/usr/sbin/nft --file {MAIN}"]:
        yield Finding(
            place=place,
            expected=f"/usr/sbin/nft --file {MAIN}",
            got="; ".join(line for _, line in unit.programs()),
        )
    if ("sysinit.target", "requires") not in pulled_in(root).get(_FIREWALL, ()):
        yield Finding(place=place, expected="required by sysinit.target", got="not required")
    if (got := unit.value("Unit", "FailureAction")) != "poweroff-force":
        yield Finding(place=place, expected="FailureAction=poweroff-force", got=got or "none")
    for name in ("network-pre.target", "sysinit.target"):
        if name not in unit.words("Unit", "Before"):
            yield Finding(place=place, expected=f"Before={name}", got="another order")
    networkd = units.get("systemd-networkd.service")
    if (
        networkd is not None
        and not networkd.masked
        and "network-pre.target" not in networkd.words("Unit", "After")
    ):
        yield Finding(place=f"root:{networkd.path}", expected="After=network-pre.target", got="another order")


@RULES.rule(
    "GS-NET-007", "The kernel routes nothing and believes no neighbour",
    "include common/hardening",
)  # fmt: skip
def routing(subject: Subject) -> Iterator[Finding]:
    """Forwarding, redirects, source routes, proxy ARP and echo answers are off, reverse paths are
    checked, for every interface of both families."""
    yield from needs_settings(subject, _ROUTING)


@RULES.rule(
    "GS-NET-008", "The network's configuration takes an address and nothing else from the network",
    "LLMNR=no, MulticastDNS=no; UseHostname=no, UseDomains=no in the .network file",
)  # fmt: skip
def configuration(subject: Subject) -> Iterator[Finding]:
    """Each `.network` file turns LLMNR and multicast DNS off and takes no host name or search domain from
    DHCP; no `.netdev` file makes a tunnel."""
    root = subject.image.root
    for path in config_files(root, "systemd/network", ".network"):
        lines = {line.strip().replace(" ", "") for line in (root.text(path) or "").splitlines()}
        for wanted in ("LLMNR=no", "MulticastDNS=no", "UseHostname=no", "UseDomains=no"):
            if wanted not in lines:
                yield Finding(place=f"root:{path}", expected=wanted, got="not set")
    for path in config_files(root, "systemd/network", ".netdev"):
        yield Finding(place=f"root:{path}", expected="no virtual network device", got="it is there")


def _accepting(chain: Chain) -> list[FilterRule]:
    return [rule for rule in chain.rules if rule.verdict == "accept"]


def _service_ports(ruleset: Ruleset, table: Table, rule: FilterRule, side: str) -> list[str] | None:
    """Return the ports of a rule that is for a service: one port condition; for TCP answers, the flags as
    well."""
    for protocol in ("tcp", "udp"):
        match: Match | None = rule.match(f"{protocol} {side}")
        if match is None:
            continue
        flags = rule.match("tcp flags")
        wanted = 2 if protocol == "tcp" and side == "sport" else 1
        if len(rule.matches) == wanted and (
            wanted == 1 or (flags is not None and flags.values == (_ANSWERS,))
        ):
            return [f"{protocol}/{port}" for port in sorted(ruleset.elements(table, match))]
    return None


def _allowed(
    ruleset: Ruleset, table: Table, rule: FilterRule, shapes: Sequence[dict[str, frozenset[str]]]
) -> bool:
    given = {match.field: ruleset.elements(table, match) for match in rule.matches}
    return any(
        given.keys() == shape.keys() and all(given[name] <= shape[name] for name in shape) for shape in shapes
    )


def _unknown(rule: FilterRule) -> Finding:
    conditions = " ".join(
        f"{match.field} {' '.join(match.values) or '@' + match.set}" for match in rule.matches
    )
    return Finding(
        place=f"root:{rule.where}",
        expected="a rule of the profile",
        got=f"{conditions or 'everything'} accept",
    )
