"""The parser of the packet filter's rules: what it takes, and that it takes nothing else."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.audit.nftables.parse import parse_ruleset
from measurements.errors import FormatError, LimitError

OURS = (Path(__file__).parents[3] / "recipes/common/hardening/rules.nft").read_text()
MAIN = "/rules.nft"
fuzz = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


def parse(text: str, **included: str):
    def read(path: str):
        if path == MAIN:
            return [(MAIN, text)]
        return [
            (f"/{name}.nft", content)
            for name, content in included.items()
            if "*" in path or path == f"/{name}.nft"
        ]

    return parse_ruleset(MAIN, read)


def chain(rule: str, family: str = "inet") -> str:
    hook = "type filter hook input priority filter; policy drop;"
    ports = "set s { type inet_service; elements = { 1, 2 } }"
    return f"table {family} t {{\n {ports}\n chain c {{\n {hook}\n {rule}\n}}\n}}\n"


def only_rule(rule: str, family: str = "inet"):
    (table,) = parse(chain(rule, family)).tables
    (found,) = table.chains["c"].rules
    return found


def test_our_own_rules():
    found = parse(OURS, evidence="add element inet goldsmith tcp_services { 8440 }\n")
    (table,) = found.tables
    assert found.flushes and (table.family, table.name) == ("inet", "goldsmith")
    assert table.sets == {"tcp_services": {"8440"}, "udp_services": set()}
    assert {name: (c.hook, c.policy, len(c.rules)) for name, c in table.chains.items()} == {
        "input": ("input", "drop", 10), "forward": ("forward", "drop", 0), "output": ("output", "drop", 7),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        ("accept", []),
        ("tcp dport 22 accept", [("tcp dport", ("22",), "")]),
        ("tcp dport { 80, 443 } accept", [("tcp dport", ("443", "80"), "")]),
        ("tcp dport @s drop", [("tcp dport", (), "s")]),
        ("meta l4proto != icmpv6 drop", [("meta l4proto", ("!= icmpv6",), "")]),
        ("iifname lo accept", [("iifname", ("lo",), "")]),
        (
            "ip saddr 10.0.0.0/8 tcp sport 1 accept",
            [("ip saddr", ("10.0.0.0/8",), ""), ("tcp sport", ("1",), "")],
        ),
        ("tcp flags & (syn | ack) == syn accept", [("tcp flags", ("& (ack | syn) == syn",), "")]),
    ],
)
def test_rules(rule, matches):
    found = only_rule(rule)
    assert [(match.field, match.values, match.set) for match in found.matches] == matches
    assert found.verdict == rule.split()[-1]
    assert found.where == f"{MAIN}:5"


@pytest.mark.parametrize(
    "rule",
    [
        "ct state established accept",
        "counter accept",
        "log accept",
        "jump other",
        "goto other",
        "return",
        "meta l4proto { tcp } accept",
        "meta nfproto ipv4 accept",
        "tcp dport != 22 accept",
        "tcp dport 0 accept",
        "tcp dport 65536 accept",
        "tcp dport 1-1024 accept",
        "tcp dport http accept",
        "tcp dport @other accept",
        "tcp dport { } accept",
        "tcp dport { 1, } accept",
        "iif != lo accept",
        "ip saddr fe80::/10 accept",
        "ip6 saddr 10.0.0.1 accept",
        "ip saddr 10.0.0.1/8 accept",
        "ip saddr example.org accept",
        "icmpv6 type everything accept",
        "tcp flags syn accept",
        "tcp flags & (syn) != ack accept",
        "tcp dport 1 tcp dport 2 accept",
        "ip6 saddr ::1 icmp type echo-request accept",
        "ip saddr 1.2.3.4 ip6 daddr ::1 accept",
        "tcp dport 1 udp sport 2 accept",
        "accept accept",
        "tcp dport 22",
        "accept }",
        "ip6 hoplimit 256 accept",
        "dnat to 1.2.3.4",
        "`reboot`",
    ],
)
def test_what_is_not_known_is_refused(rule):
    with pytest.raises(FormatError):
        parse(chain(rule))


def test_a_table_of_one_family_takes_no_rules_of_the_other():
    """Such a table does not load: nft says "conflicting protocols specified"."""
    with pytest.raises(FormatError, match="no packet has both"):
        only_rule("icmp type echo-request accept", family="ip6")


@pytest.mark.parametrize(
    "text",
    [
        "table inet t {\n}\ntable inet t {\n}\n",
        "table inet t {\n}\nflush ruleset\n",
        "table bridge t {\n}\n",
        "add element inet t s { 1 }\n",
        'include "relative.nft"\n',
        'include "/absent.nft"\n',
        "include /rules.nft\n",
        "table inet t {\n set s { }\n}\n",
        "table inet t {\n set s { type ipv4_addr; }\n}\n",
        "table inet t {\n chain c { type nat hook input priority 0; policy drop; }\n}\n",
        "table inet t {\n chain c { type filter hook prerouting priority 0; policy drop; }\n}\n",
        "table inet t {\n chain c { type filter hook input priority -300; policy drop; }\n}\n",
        "table inet t {\n chain c { type filter hook input priority 0; }\n}\n",
        "table inet t {\n chain c {\n accept\n type filter hook input priority 0; policy drop;\n}\n}\n",
        "table inet t {\n",
        "delete table inet t\n",
        "define x = 1\n",
    ],
)
def test_files_that_would_not_load_or_hide_something_are_refused(text):
    with pytest.raises(FormatError):
        parse(text)


def test_an_endless_include_ends():
    with pytest.raises(LimitError):
        parse('include "/*.nft"\n', again='include "/*.nft"\n')


@fuzz
@given(st.text(alphabet=' \n\t{}();,&|@!="#abcdefilnopstuvy0123456789.:/-', max_size=400))
def test_random_text_never_escapes(text):
    with contextlib.suppress(FormatError):
        parse(text)


@fuzz
@given(st.data())
def test_cut_and_shuffled_rules_never_escape(data):
    words = OURS.split(" ")
    start = data.draw(st.integers(0, len(words)))
    end = data.draw(st.integers(start, len(words)))
    place = data.draw(st.integers(0, len(words)))
    with contextlib.suppress(FormatError):
        parse(" ".join([*words[:place], *words[start:end], *words[place:end]]))
