"""Runs what the host sends over a virtio-serial port, as root: the guest's half of the live tests' command channel.

It comes with a measured add-on and is part of no image. A frame is a u32 (little endian) and that many bytes; they are
fields, each again a u32 and its bytes. A request is (user id, limit in seconds, standard input, argument...) and the
answer (status, standard output, standard error). The status is an exit code, minus a signal's number, or one of
`REFUSALS`. Without a program's name, the argument is a path, and the input becomes a program there. Only modules that
are built into the image's interpreter are imported. The host's half of the channel imports this file too.
"""

import _signal as signal  # what lies below the module of that name, which the image leaves out
import os
import select
import struct
import sys
import time

PORT = "org.goldsmith.live.0"
#: What opens the conversation: firmware writes to virtio-serial ports too, so the host skips what comes before.
GREETING = b"\x00goldsmith-live-1\x00"
MAX_FRAME = 8 << 20  # bytes; the largest is the upload of a program
MAX_FIELDS = 128
MAX_OUTPUT = 2 << 20  # bytes of each stream
MAX_LIMIT = 120  # seconds
#: In place of an exit code: the command ran too long, or wrote too much, and was killed.
REFUSALS = ("timeout", "output")

FOLDER = "/run/goldsmith-live"
#: /run starts no programs, so they lie on a tmpfs of this process's own mount namespace; the machine's stays as it is.
PROGRAMS = FOLDER + "/bin"
ENVIRONMENT = {"PATH": PROGRAMS + ":/usr/bin:/usr/sbin", "LC_ALL": "C", "HOME": "/"}
_PORTS = "/sys/class/virtio-ports"
_CHUNK = 1 << 16


class FrameError(Exception):
    """A frame is not what the protocol says."""


def encode(fields):
    """Return a frame's bytes, its length first."""
    body = b"".join(struct.pack("<I", len(field)) + field for field in fields)
    return struct.pack("<I", len(body)) + body


def decode(body):
    """Return the fields of a frame's body."""
    fields, offset = [], 0
    while offset < len(body):
        if len(fields) == MAX_FIELDS:
            raise FrameError(f"a frame of more than {MAX_FIELDS} fields")
        if len(body) - offset < 4:
            raise FrameError("a frame ends within a field's length")
        (size,) = struct.unpack_from("<I", body, offset)
        offset += 4
        if size > len(body) - offset:
            raise FrameError(f"a field of {size} bytes in a frame with {len(body) - offset} left")
        fields.append(bytes(body[offset : offset + size]))
        offset += size
    return fields


def read_frame(read):
    """Return the fields of the next frame; ``read(n)`` returns 1 to n bytes or raises."""
    (size,) = struct.unpack("<I", read_exactly(read, 4))
    if size > MAX_FRAME:
        raise FrameError(f"a frame of {size} bytes; at most {MAX_FRAME}")
    return decode(read_exactly(read, size))


def read_exactly(read, size):
    """Return ``size`` bytes."""
    data = bytearray()
    while len(data) < size:
        data += read(min(_CHUNK, size - len(data)))
    return bytes(data)


def answer(fields):
    """Run a request; return the answer's fields."""
    if len(fields) < 4:
        raise FrameError(f"a request of {len(fields)} fields; expected user, limit, input and a command")
    user, limit, feed, *arguments = fields
    if not arguments[0]:
        return put(feed, *arguments[1:])
    status, output, errors = run(int(user), min(int(limit), MAX_LIMIT), feed, arguments)
    return str(status).encode(), output, errors


def put(content, path):
    """Write a program; return an answer's fields."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o755)
        try:
            write(descriptor, content)
        finally:
            os.close(descriptor)
    except OSError as error:
        return b"1", b"", error.strerror.encode()
    return b"0", b"", b""


def run(user, limit, feed, arguments):
    """Run a program as a user without groups; return its status and what it wrote."""
    inside, outside = zip(*(os.pipe2(os.O_CLOEXEC) for _ in range(3)), strict=True)
    ours, theirs = [outside[0], inside[1], inside[2]], [inside[0], outside[1], outside[2]]
    child = os.fork()
    if child == 0:
        _become(user, theirs, arguments)
    for descriptor in theirs:
        os.close(descriptor)
    written = {ours[1]: bytearray(), ours[2]: bytearray()}
    refusal = _exchange(ours[0], memoryview(feed), written, time.monotonic() + limit)
    if refusal:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = refusal or os.waitstatus_to_exitcode(status)
    return code, *(bytes(text[:MAX_OUTPUT]) for text in written.values())


def _become(user, descriptors, arguments):
    try:
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        os.chdir("/")
        os.umask(0o022)
        if user:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        for number in (signal.SIGPIPE, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.execve(which(arguments[0]), arguments, ENVIRONMENT)
    except OSError as error:
        os.write(2, f"cannot start: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def which(program):
    """Return the path of a program; os.execvpe imports modules that the image leaves out."""
    places = (
        [b""] if b"/" in program else [folder.encode() + b"/" for folder in ENVIRONMENT["PATH"].split(":")]
    )
    return next((place + program for place in places if os.access(place + program, os.X_OK)), program)


def _exchange(stdin, feed, written, deadline):
    """Feed a child and collect what it writes until it has closed both streams; return a refusal or ''."""
    poll, refusal = select.poll(), ""
    os.set_blocking(stdin, False)
    for descriptor in written:
        poll.register(descriptor, select.POLLIN)
    poll.register(stdin, select.POLLOUT)
    waiting = set(written)
    while waiting and not refusal:
        left = deadline - time.monotonic()
        for descriptor, _ in poll.poll(max(0, left) * 1000):
            if descriptor == stdin:
                feed = _feed(stdin, feed, poll)
            elif chunk := os.read(descriptor, _CHUNK):
                written[descriptor] += chunk
                if len(written[descriptor]) > MAX_OUTPUT:
                    refusal = REFUSALS[1]
            else:
                poll.unregister(descriptor)
                waiting.discard(descriptor)
        if time.monotonic() >= deadline:
            refusal = REFUSALS[0]
    for descriptor in written:
        os.close(descriptor)
    if feed is not None:
        os.close(stdin)
    return refusal


def _feed(stdin, feed, poll):
    """Write what the child takes; close its input at the end, or where it takes no more."""
    try:
        feed = feed[os.write(stdin, feed[:_CHUNK]) :]
    except BrokenPipeError:
        feed = feed[:0]
    if feed:
        return feed
    poll.unregister(stdin)
    os.close(stdin)
    return None


def find_port():
    """Return the device of the channel's port."""
    for entry in os.scandir(_PORTS):
        with open(entry.path + "/name") as name:
            if name.read().strip() == PORT:
                return "/dev/" + entry.name
    sys.exit("the machine has no virtio-serial port " + PORT)


def make_room():
    """Give this process a folder that starts programs, which nobody else sees."""
    os.unshare(os.CLONE_NEWNS)
    for arguments in (
        ["--make-rprivate", "/"],
        ["-t", "tmpfs", "-o", "mode=0755,nosuid,nodev,size=32M", "live", PROGRAMS],
    ):
        status, _, errors = run(0, 10, b"", [b"/usr/bin/mount", *(word.encode() for word in arguments)])
        if status != 0:
            sys.exit("cannot mount: " + errors.decode("utf-8", "replace"))


def main():
    """Serve requests until the machine stops."""
    os.makedirs(PROGRAMS, exist_ok=True)
    make_room()
    port = os.open(find_port(), os.O_RDWR | os.O_CLOEXEC)
    write(port, GREETING)

    def read(size):
        while True:
            data = os.read(port, size)
            if data:
                return data
            time.sleep(0.1)  # no host has opened the port

    while True:
        write(port, encode(answer(read_frame(read))))


def write(descriptor, data):
    """Write all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
