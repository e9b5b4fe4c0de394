"""The packet filter, parsed: the part of nft(8)'s language that this project's rules use, and nothing else.

A statement that is not known here is an error, never skipped: what is not understood could let a packet pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from builder.audit.nftables.model import Chain, FilterRule, Match, Ruleset, Table
from builder.audit.nftables.values import (
    ICMP_CODES,
    ICMP_TYPES,
    ICMPV6_TYPES,
    PROTOCOLS,
    TCP_FLAGS,
    byte,
    network,
    one_of,
    port,
)
from measurements.errors import FormatError, LimitError

MAX_TEXT: Final = 1 << 20
MAX_INCLUDES: Final = 100
MAX_ELEMENTS: Final = 10_000

_TOKEN = re.compile(r'\s*(?:(#[^\n]*)|("[^"\n]*")|([!=]=|[{}();,&|@=])|([A-Za-z0-9_.:/-]+))')
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_/.-]{0,127}\Z")
_INTERFACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}\Z")
_FAMILIES = ("ip", "ip6", "inet")
_HOOKS = ("input", "forward", "output")
_POLICIES = ("accept", "drop")
#: What a field says about the packet's network protocol; a rule that says both can never match, and does not load.
_FAMILY_OF = {"ip saddr": 4, "ip daddr": 4, "icmp type": 4, "icmp code": 4,
              "ip6 saddr": 6, "ip6 daddr": 6, "ip6 hoplimit": 6, "icmpv6 type": 6}  # fmt: skip
_TRANSPORT_OF = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "icmpv6": "icmpv6"}


def parse_ruleset(path: str, read: Callable[[str], Sequence[tuple[str, str]]]) -> Ruleset:
    """Parse a file of rules and what it includes.

    Args:
        path: of the main file.
        read: returns (path, text) of the files that a path or pattern names, sorted; none for an absent one.

    Raises:
        FormatError: a statement that is not known here, an include that leads nowhere, or a reference that does
            not resolve; the message begins with the file and line.
        LimitError: larger than the limits of this module.
    """
    files = read(path)
    if len(files) != 1:
        raise FormatError(f"{path}: the rules are not there")
    parser = _Parser(read)
    parser.file(*files[0])
    return parser.ruleset


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    where: str
    quoted: bool = False


def _tokens(path: str, text: str) -> list[_Token]:
    if len(text) > MAX_TEXT:
        raise LimitError(f"{path}: {len(text)} characters; the limit is {MAX_TEXT}")
    found: list[_Token] = []
    for number, line in enumerate(text.split("\n"), 1):
        where, position, end = f"{path}:{number}", 0, len(line.rstrip())
        while position < end:
            match = _TOKEN.match(line, position)
            if match is None or match.end() == position:
                raise FormatError(f"{where}: unexpected {line[position:][:40].strip()!r}")
            position = match.end()
            if match[2]:
                found.append(_Token(match[2][1:-1], where, quoted=True))
            elif match[3] or match[4]:
                found.append(_Token(match[3] or match[4], where))
        found.append(_Token(";", where))  # a line ends a statement
    return found


class _Parser:
    def __init__(self, read: Callable[[str], Sequence[tuple[str, str]]]) -> None:
        self.ruleset = Ruleset()
        self._read = read
        self._includes = 0
        self._tokens: list[_Token] = []
        self._position = 0
        self._where = ""

    def file(self, path: str, text: str) -> None:
        """Take the statements of one file."""
        outer = (self._tokens, self._position, self._where)
        self._tokens, self._position, self._where = _tokens(path, text), 0, path
        while self._more():
            self._statement()
        self._tokens, self._position, self._where = outer

    def _statement(self) -> None:
        word = self._word("flush", "table", "add", "include")
        match word:
            case "flush":
                self._expect("ruleset")
                if self.ruleset.tables:
                    raise self._error("flush ruleset comes after a table, and takes it away")
                self.ruleset.flushes = True
                self._end()
            case "table":
                self._table()
            case "add":
                self._expect("element")
                table = self._find_table()
                name = self._name()
                if name not in table.sets:
                    raise self._error(f"there is no set {name} in the table {table.name}")
                table.sets[name].update(self._ports())
                self._end()
            case _:
                self._include()

    def _include(self) -> None:
        token = self._next()
        if not token.quoted or not token.text.startswith("/"):
            raise self._error(f"include takes an absolute path in quotes, got {token.text[:80]!r}")
        self._end()
        self._includes += 1
        if self._includes > MAX_INCLUDES:
            raise LimitError(f"{self._where}: more than {MAX_INCLUDES} includes")
        files = self._read(token.text)
        if not files and "*" not in token.text:
            raise self._error(f"includes {token.text}, which is not there")
        for path, text in files:
            self.file(path, text)

    def _table(self) -> None:
        family, name = self._word(*_FAMILIES), self._name()
        if any((table.family, table.name) == (family, name) for table in self.ruleset.tables):
            raise self._error(f"the table {family} {name} is there twice")
        table = Table(family=family, name=name)
        self._expect("{")
        while (word := self._word("set", "chain", "}")) != "}":
            if word == "set":
                self._set(table)
            else:
                self._chain(table)
        self._end()
        self.ruleset.tables.append(table)

    def _set(self, table: Table) -> None:
        name = self._name()
        if name in table.sets:
            raise self._error(f"the set {name} is there twice")
        self._expect("{")
        typed = False
        table.sets[name] = set()
        while (word := self._word("type", "elements", "}")) != "}":
            if word == "type":
                self._expect("inet_service")
                typed = True
            else:
                self._expect("=")
                table.sets[name].update(self._ports())
            self._end()
        if not typed:
            raise self._error(f"the set {name} has no type")
        self._end()

    def _chain(self, table: Table) -> None:
        name = self._name()
        if name in table.chains:
            raise self._error(f"the chain {name} is there twice")
        chain = table.chains[name] = Chain(name=name)
        self._expect("{")
        while (word := self._peek()) != "}":
            if word == "type":
                self._base(chain)
            else:
                chain.rules.append(self._rule(table))
        self._next()
        self._end()

    def _base(self, chain: Chain) -> None:
        if chain.hook or chain.rules:
            raise self._error("the hook of a chain stands once, before its rules")
        for word in ("type", "filter", "hook"):
            self._expect(word)
        chain.hook = self._word(*_HOOKS)
        self._expect("priority")
        chain.priority = self._word("filter", "0")
        self._end()
        self._expect("policy")
        chain.policy = self._word(*_POLICIES)
        self._end()

    def _rule(self, table: Table) -> FilterRule:
        self._peek()
        where = self._where
        matches: list[Match] = []
        while (word := self._next().text) not in ("accept", "drop"):
            match = self._match(word, table)
            if any(match.field == other.field for other in matches):
                raise self._error(f"{match.field} stands twice in one rule")
            matches.append(match)
        self._end()
        families = {_FAMILY_OF[match.field] for match in matches if match.field in _FAMILY_OF}
        families |= {4} if table.family == "ip" else {6} if table.family == "ip6" else set()
        transports = {
            kind
            for match in matches
            if (kind := _TRANSPORT_OF.get(match.field.partition(" ")[0])) is not None
        }
        if len(families) > 1 or len(transports) > 1:
            raise FormatError(
                f"{where}: the rule asks for {', '.join(match.field for match in matches)} at once; no packet has both"
            )
        return FilterRule(matches=tuple(matches), verdict=word, where=where)

    def _match(self, word: str, table: Table) -> Match:
        if word in ("iif", "oif", "iifname", "oifname"):
            name = self._next()
            if name.text == "!=" or not _INTERFACE.match(name.text):
                raise self._error(f"{word} {name.text[:40]!r}: expected the name of an interface")
            return Match(field=word, values=(name.text,))
        second = self._next().text
        name_ = f"{word} {second}"
        match name_:
            case "tcp dport" | "tcp sport" | "udp dport" | "udp sport":
                if self._peek() == "@":
                    self._next()
                    wanted = self._name()
                    if wanted not in table.sets:
                        raise self._error(f"there is no set {wanted} in the table {table.name}")
                    return Match(field=name_, set=wanted)
                return Match(field=name_, values=tuple(sorted(self._values(port))))
            case "meta l4proto":
                operator = self._next().text if self._peek() == "!=" else "=="
                return Match(field=name_, values=(f"{operator} {self._word(*sorted(PROTOCOLS))}",))
            case "tcp flags":
                return Match(field=name_, values=(self._flags(),))
            case "ip saddr" | "ip daddr":
                return Match(field=name_, values=tuple(sorted(self._values(network(4)))))
            case "ip6 saddr" | "ip6 daddr":
                return Match(field=name_, values=tuple(sorted(self._values(network(6)))))
            case "ip6 hoplimit":
                return Match(field=name_, values=tuple(sorted(self._values(byte))))
            case "icmp type":
                return Match(field=name_, values=tuple(sorted(self._values(one_of(ICMP_TYPES)))))
            case "icmp code":
                return Match(field=name_, values=tuple(sorted(self._values(one_of(ICMP_CODES)))))
            case "icmpv6 type":
                return Match(field=name_, values=tuple(sorted(self._values(one_of(ICMPV6_TYPES)))))
            case _:
                raise self._error(f"the statement {name_[:80]!r} is not known to this audit")

    def _flags(self) -> str:
        """Read ``& (syn | ack) != syn``."""
        self._expect("&")
        self._expect("(")
        mask = [self._word(*TCP_FLAGS)]
        while self._word("|", ")") == "|":
            mask.append(self._word(*TCP_FLAGS))
        operator = self._word("!=", "==")
        value = self._word(*TCP_FLAGS)
        if value not in mask:
            raise self._error(f"the flag {value} is not in the mask {', '.join(mask)}")
        return f"& ({' | '.join(sorted(mask))}) {operator} {value}"

    def _ports(self) -> set[str]:
        if self._peek() != "{":
            raise self._error("expected elements in braces")
        return self._values(port)

    def _values(self, check: Callable[[str], str]) -> set[str]:
        """Read one value, or several in braces."""
        if self._peek() != "{":
            return {self._checked(check)}
        self._next()
        found: set[str] = set()
        while True:
            found.add(self._checked(check))
            if len(found) > MAX_ELEMENTS:
                raise LimitError(f"{self._where}: more than {MAX_ELEMENTS} elements")
            if self._word(",", "}") == "}":
                return found

    def _checked(self, check: Callable[[str], str]) -> str:
        token = self._next()
        try:
            if token.quoted:
                raise ValueError("no text")
            return check(token.text)
        except ValueError as error:
            raise self._error(f"{token.text[:80]!r}: {error}") from error

    def _find_table(self) -> Table:
        family, name = self._word(*_FAMILIES), self._name()
        for table in self.ruleset.tables:
            if (table.family, table.name) == (family, name):
                return table
        raise self._error(f"there is no table {family} {name}")

    def _more(self) -> bool:
        while self._position < len(self._tokens) and self._tokens[self._position].text == ";":
            self._position += 1
        return self._position < len(self._tokens)

    def _next(self) -> _Token:
        if not self._more():
            raise self._error("the file ends in the middle of a statement")
        token = self._tokens[self._position]
        self._position += 1
        self._where = token.where
        return token

    def _peek(self) -> str:
        token = self._next()
        self._position -= 1
        return token.text

    def _end(self) -> None:
        """A statement ends with its line, a semicolon, or the brace around it."""
        if self._position >= len(self._tokens):
            return
        token = self._tokens[self._position]
        if token.quoted or token.text not in (";", "}"):
            raise FormatError(f"{token.where}: {token.text[:40]!r} follows the end of a statement")

    def _expect(self, text: str) -> None:
        self._word(text)

    def _word(self, *allowed: str) -> str:
        token = self._next()
        if token.quoted or token.text not in allowed:
            raise self._error(f"expected {' or '.join(sorted(allowed))}, got {token.text[:80]!r}")
        return token.text

    def _name(self) -> str:
        token = self._next()
        if token.quoted or not _NAME.match(token.text):
            raise self._error(f"{token.text[:80]!r} is no name")
        return token.text

    def _error(self, message: str) -> FormatError:
        return FormatError(f"{self._where}: {message}")
