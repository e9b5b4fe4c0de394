"""Uses scratch space and tells the serial line: its mount, a text written many times, and when reading it fails."""

import errno
import os
import sys
import time

FOLDER = "/var/scratch"
TEXT = b"goldsmith scratch text, in the clear. " * 100_000
WAIT = 60.0  # seconds for the host to change its disk


def main() -> None:
    tell("mount", next(line for line in lines("/proc/1/mountinfo") if line.split()[4] == FOLDER))
    tell(
        "keys", " ".join(word for line in lines("/proc/keys") for word in line.split() if "goldsmith" in word)
    )
    tell("execution", execution())
    written = os.open(f"{FOLDER}/text", os.O_RDWR | os.O_CREAT)
    os.write(written, TEXT)
    os.fsync(written)
    tell("read", read_again(written))
    deadline = time.monotonic() + WAIT
    while (said := read_again(written)) == "equal" and time.monotonic() < deadline:
        time.sleep(0.5)
    tell("changed", said)


def read_again(descriptor: int) -> str:
    """Read from the disk, not from memory, what was written to it."""
    caches = os.open("/proc/sys/vm/drop_caches", os.O_WRONLY)
    os.write(caches, b"1")
    os.close(caches)
    position = 0
    try:
        while chunk := os.pread(descriptor, 1 << 20, position):
            if chunk != TEXT[position : position + len(chunk)]:
                return "other"
            position += len(chunk)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "equal" if position == len(TEXT) else "short"


def execution() -> str:
    """Try to start a program from there."""
    path = f"{FOLDER}/program"
    program = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    os.write(program, b"#!/usr/bin/python3.13\n")
    os.close(program)
    try:
        os.posix_spawn(path, [path], {})
    except OSError as error:
        return errno.errorcode[error.errno]
    return "started"


def lines(path: str) -> list[str]:
    descriptor = os.open(path, os.O_RDONLY)
    data = b""
    while chunk := os.read(descriptor, 65536):
        data += chunk
    os.close(descriptor)
    return data.decode().splitlines()


def tell(what: str, value: str) -> None:
    print(f"PROBE {what}: {value}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        tell("failure", repr(error))
        sys.exit(1)
