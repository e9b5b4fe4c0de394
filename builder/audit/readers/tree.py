"""A file tree as it was read from an image: metadata and content, with nothing lost on the way."""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from measurements.errors import FormatError, LimitError

MAX_LINKS = 40
_NO_XATTRS: Mapping[str, bytes] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One inode under one name.

    Attributes:
        mode: st_mode: file type and permission bits.
        uid: owner.
        gid: group.
        content: bytes of a regular file, or a symbolic link's target.
        xattrs: name with its prefix ("security.capability") -> value.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    content: bytes = field(default=b"", repr=False)
    xattrs: Mapping[str, bytes] = field(default_factory=lambda: _NO_XATTRS)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)

    @property
    def is_program(self) -> bool:
        """Whether somebody may execute it."""
        return self.is_file and bool(self.mode & 0o111)

    @property
    def permissions(self) -> int:
        """Permission bits with setuid, setgid and sticky."""
        return stat.S_IMODE(self.mode)

    @property
    def target(self) -> str:
        """Where a symbolic link leads; an empty string for all else."""
        return self.content.decode("utf-8", "surrogateescape") if self.is_link else ""

    @property
    def text(self) -> str:
        """Content as text; bytes that are no UTF-8 become U+FFFD."""
        return self.content.decode("utf-8", "replace")


class FileTree:
    """Absolute normalised paths and what lies there, in byte order. Never changed after it was made."""

    __slots__ = ("_below", "_files")

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = dict(sorted(files.items()))
        self._below: dict[str, list[str]] = {}
        for path in self._files:
            if path != "/":
                self._below.setdefault(posixpath.dirname(path), []).append(path)

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def items(self) -> Iterator[tuple[str, File]]:
        """Yield every path and what lies there."""
        yield from self._files.items()

    def get(self, path: str) -> File | None:
        """Return what lies at a path; links are not followed."""
        return self._files.get(path)

    def children(self, folder: str) -> tuple[str, ...]:
        """Return the paths directly below a folder."""
        return tuple(self._below.get(folder, ()))

    def resolve(self, path: str) -> str | None:
        """Return the path at the end of every link, or None where a component is absent or links loop."""
        pending = [part for part in path.split("/") if part]
        current, followed = "", 0
        while pending:
            part = pending.pop(0)
            if part == ".":
                continue
            if part == "..":
                current = posixpath.dirname(current).rstrip("/")
                continue
            found = self._files.get(f"{current}/{part}")
            if found is None:
                return None
            if found.is_link:
                followed += 1
                if followed > MAX_LINKS:
                    return None
                current = "" if found.target.startswith("/") else current
                pending = [piece for piece in found.target.split("/") if piece] + pending
                continue
            current = f"{current}/{part}"
        return current or "/"

    def follow(self, path: str) -> File | None:
        """Return what a path leads to, links followed."""
        real = self.resolve(path)
        return self._files.get(real) if real is not None else None

    def text(self, path: str) -> str | None:
        """Return the text of the file that a path leads to; None where there is no regular file."""
        found = self.follow(path)
        return found.text if found is not None and found.is_file else None

    def replaced(self, changes: Mapping[str, File | None]) -> FileTree:
        """Return a tree with other files at some paths; None takes one away, missing folders are made."""
        files = {path: file for path, file in {**self._files, **changes}.items() if file is not None}
        for path in tuple(files):
            while (path := posixpath.dirname(path)) not in files:
                files[path] = File(mode=stat.S_IFDIR | 0o755)
        return FileTree(files)


def check_name(name: bytes, where: str) -> str:
    """Return a directory entry's name as text.

    Raises:
        FormatError: it is empty, "." or "..", or holds a slash or NUL.
    """
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise FormatError(f"{where}: {name[:80]!r} is no file name")
    return name.decode("utf-8", "surrogateescape")


class Budget:
    """Counts what a reader has taken, and stops it at a limit."""

    def __init__(self, what: str, *, files: int, size: int) -> None:
        self._what, self._files, self._size = what, files, size

    def take(self, *, files: int = 0, size: int = 0) -> None:
        """Take a share.

        Raises:
            LimitError: more than there is.
        """
        self._files -= files
        self._size -= size
        if self._files < 0 or self._size < 0:
            raise LimitError(f"{self._what}: more files or bytes than the limits of its reader")
