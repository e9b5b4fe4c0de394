"""The command channel's two halves, without a machine: frames, limits, and the agent's way of running programs."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time

import pytest
from channel import MAX_NOISE, Channel, ChannelError
from guest import agent
from hypothesis import given, settings
from hypothesis import strategies as st

fields = st.lists(st.binary(max_size=200), max_size=10)


def body(items: list[bytes]) -> bytes:
    return agent.encode(items)[4:]


@given(fields)
def test_frames_come_back_as_they_were(items):
    assert agent.decode(body(items)) == items


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_random_bytes_are_a_frame_or_an_error(data):
    with contextlib.suppress(agent.FrameError):
        assert body(agent.decode(data)) == data


@settings(max_examples=200)
@given(fields.filter(bool), st.data())
def test_a_cut_frame_is_an_error_or_fewer_fields(items, data):
    whole = body(items)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(agent.FrameError):
        assert agent.decode(cut) == items[: len(agent.decode(cut))]


def test_limits():
    with pytest.raises(agent.FrameError, match="fields"):
        agent.decode(body([b""] * (agent.MAX_FIELDS + 1)))
    with pytest.raises(agent.FrameError, match="at most"):
        stream = iter([struct.pack("<I", agent.MAX_FRAME + 1)])
        agent.read_frame(lambda size: next(stream))


@pytest.mark.parametrize("request_", [[], [b"0", b"1", b""]])
def test_a_request_needs_a_command(request_):
    with pytest.raises(agent.FrameError):
        agent.answer(request_)


def test_the_agent_runs_programs():
    assert agent.answer([b"0", b"5", b"in", b"/bin/cat"]) == (b"0", b"in", b"")
    assert agent.answer([b"0", b"5", b"", b"/bin/sh", b"-c", b"echo out; echo err >&2; exit 3"]) == (
        b"3", b"out\n", b"err\n",
    )  # fmt: skip
    assert agent.answer([b"0", b"5", b"", b"/bin/sh", b"-c", b"kill -9 $$"])[0] == b"-9"


def test_the_agent_says_what_cannot_be_started():
    status, _, errors = agent.answer([b"0", b"5", b"", b"/nonexistent"])
    assert status == b"127" and b"No such file" in errors


def test_the_agent_stops_what_runs_too_long_with_its_children():
    started = time.monotonic()
    status, output, _ = agent.answer([b"0", b"1", b"", b"/bin/sh", b"-c", b"echo so far; sleep 60 & wait"])
    assert (status, output) == (b"timeout", b"so far\n")
    assert time.monotonic() - started < 30


def test_the_agent_stops_what_writes_too_much():
    status, output, _ = agent.answer([b"0", b"30", b"", b"/bin/cat", b"/dev/zero"])
    assert status == b"output" and len(output) == agent.MAX_OUTPUT


def test_a_program_need_not_read_its_input():
    assert agent.answer([b"0", b"20", bytes(1 << 20), b"/bin/true"])[0] == b"0"


def test_the_agent_writes_programs(tmp_path):
    path = tmp_path / "program"
    assert agent.answer([b"0", b"5", b"#!/bin/sh\n", b"", os.fsencode(path)]) == (b"0", b"", b"")
    assert path.read_bytes() == b"#!/bin/sh\n" and path.stat().st_mode & 0o111
    assert agent.answer([b"0", b"5", b"", b"", os.fsencode(tmp_path)])[0] == b"1"


class Guest:
    """The other end of a channel, which says what it is told."""

    def __init__(self, *said: bytes) -> None:
        ours, self.theirs = socket.socketpair()
        self.channel = Channel(ours)
        self._thread = threading.Thread(
            target=lambda: [self.theirs.sendall(part) for part in said], daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._thread.join()
        self.theirs.close()


def test_firmwares_noise_is_skipped():
    guest = Guest(b"\x1b[2J noise \x00gold", agent.GREETING, agent.encode([b"7", b"o", b"e"]))
    guest.channel.await_greeting(time.monotonic() + 10)
    ran = guest.channel.run("anything")
    assert (ran.status, ran.stdout, ran.stderr) == (7, b"o", b"e")


def test_endless_noise_is_an_error():
    guest = Guest(bytes(MAX_NOISE + 2))
    with pytest.raises(ChannelError, match="no greeting"):
        guest.channel.await_greeting(time.monotonic() + 60)


@pytest.mark.parametrize(
    "answer",
    [
        struct.pack("<I", 0xFFFFFFFF),
        agent.encode([]),
        agent.encode([b"0", b""]),
        agent.encode([b"zero", b"", b""]),
        agent.encode([b"timeout", b"", b""]),
        struct.pack("<II", 4, 9),
    ],
)
def test_a_hostile_guest_is_an_error(answer):
    guest = Guest(answer)
    with pytest.raises(ChannelError):
        guest.channel.run("anything", limit=-58)


def test_a_machine_that_ends_is_an_error():
    guest = Guest(b"\x01")
    guest.close()
    with pytest.raises(ChannelError, match="closed"):
        guest.channel.run("anything")


def test_what_watches_the_machine_ends_the_wait():
    def check() -> None:
        raise ChannelError("switched off")

    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(ChannelError, match="switched off"):
        Channel(ours, check).run("anything")
