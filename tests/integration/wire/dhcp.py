"""A DHCP and DHCPv6 server for one client (RFC 2131, RFC 8415)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .frames import FrameError

_COOKIE = bytes.fromhex("63825363")
_BOOTP = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s")
_LIFETIME = 7200  # seconds; longer than any test

# RFC 2132: message types and options.
_DISCOVER, _OFFER, _REQUEST, _ACK = 1, 2, 3, 5
_NETMASK, _ROUTER, _LEASE, _TYPE, _SERVER, _END = 1, 3, 51, 53, 54, 255
# RFC 8415, 7.3 and 21: message types and options.
_SOLICIT, _ADVERTISE, _REQUEST_6, _RENEW, _REPLY, _INFORMATION = 1, 2, 3, 5, 7, 11
_CLIENT_ID, _SERVER_ID, _IA_NA, _IA_ADDRESS, _STATUS, _IA_PD = 1, 2, 3, 5, 13, 25
_NO_PREFIX = 6


class Leases:
    """The one IPv4 and the one IPv6 address that there are to have.

    Attributes:
        granted: those that were given out.
    """

    def __init__(self, *, mac: bytes, ipv4: bytes, router: bytes, netmask: bytes, ipv6: bytes) -> None:
        self._ipv4, self._router, self._netmask, self._ipv6 = ipv4, router, netmask, ipv6
        # A DUID of a link-layer address (RFC 8415, 11.4).
        self._identity = struct.pack(">HH", 3, 1) + mac
        self.granted: set[bytes] = set()

    def answer_4(self, request: bytes) -> bytes | None:
        """Return the answer to a DHCP message; none where it asks for nothing.

        Raises:
            FrameError: it is none.
        """
        if len(request) < _BOOTP.size + 4 or request[_BOOTP.size :][:4] != _COOKIE:
            raise FrameError("no DHCP message")
        operation, _, _, _, transaction, _, flags, *_, hardware, _, _ = _BOOTP.unpack_from(request)
        kind = dict(_options_4(request[_BOOTP.size + 4 :])).get(_TYPE, b"")
        answers = {bytes([_DISCOVER]): _OFFER, bytes([_REQUEST]): _ACK}
        if operation != 1 or kind not in answers:
            return None
        if answers[kind] == _ACK:
            self.granted.add(self._ipv4)
        options = (
            (_TYPE, bytes([answers[kind]])),
            (_SERVER, self._router),
            (_LEASE, struct.pack(">I", _LIFETIME)),
            (_NETMASK, self._netmask),
            (_ROUTER, self._router),
        )
        head = _BOOTP.pack(
            2,
            1,
            6,
            0,
            transaction,
            0,
            flags,
            bytes(4),
            self._ipv4,
            self._router,
            bytes(4),
            hardware,
            b"",
            b"",
        )
        return (
            head
            + _COOKIE
            + b"".join(bytes([code, len(data)]) + data for code, data in options)
            + bytes([_END])
        )

    def answer_6(self, request: bytes) -> bytes | None:
        """Return the answer to a DHCPv6 message; none where it asks for nothing.

        Raises:
            FrameError: it is none.
        """
        if len(request) < 4:
            raise FrameError("no DHCPv6 message")
        kind, options = request[0], list(_options_6(request[4:]))
        if kind not in (_SOLICIT, _REQUEST_6, _RENEW, _INFORMATION):
            return None
        answer = bytes([_ADVERTISE if kind == _SOLICIT else _REPLY]) + request[1:4]
        answer += _option_6(_SERVER_ID, self._identity)
        for code, data in options:
            if code == _CLIENT_ID:
                answer += _option_6(_CLIENT_ID, data)
            elif code == _IA_NA:
                lease = self._ipv6 + struct.pack(">II", _LIFETIME, _LIFETIME)
                times = struct.pack(">II", _LIFETIME // 2, _LIFETIME)
                answer += _option_6(_IA_NA, data[:4] + times + _option_6(_IA_ADDRESS, lease))
                if kind != _SOLICIT:
                    self.granted.add(self._ipv6)
            elif code == _IA_PD:
                answer += _option_6(
                    _IA_PD, data[:4] + bytes(8) + _option_6(_STATUS, struct.pack(">H", _NO_PREFIX))
                )
        return answer


def _options_4(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data and data[0] != _END:
        if data[0] == 0:  # padding
            data = data[1:]
            continue
        if len(data) < 2 or len(data) < 2 + data[1]:
            raise FrameError("a DHCP option that is cut off")
        yield data[0], data[2 : 2 + data[1]]
        data = data[2 + data[1] :]


def _options_6(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        if len(data) < 4 or len(data) < 4 + (length := int.from_bytes(data[2:4], "big")):
            raise FrameError("a DHCPv6 option that is cut off")
        yield int.from_bytes(data[:2], "big"), data[4 : 4 + length]
        data = data[4 + length :]


def _option_6(code: int, data: bytes) -> bytes:
    return struct.pack(">HH", code, len(data)) + data
