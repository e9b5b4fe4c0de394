"""The content-addressed store that all builds on a machine share.

Layout below the store's root::

    sha256/<hex>          objects, named by their content
    partial/<hex>         downloads under way, kept so that they can be resumed
    derived/<kind>/<hex>  what was computed from objects, named by the digest of every input
    locks/, temporary/    empty while nobody works

Nothing in it is precious: remove any part of it and the next build makes it anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from builder.atomic import locked, sync_directory
from builder.errors import FetchError, UsageError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's content."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_sha256(text: str) -> bool:
    """Whether ``text`` is 64 lower-case hex digits."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


class Store:
    """Objects by SHA-256, and values derived from them. Safe with many processes and threads at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: dict[str, tuple[int, int, int]] = {}

    @classmethod
    def default(cls, environment: Mapping[str, str] | None = None) -> Store:
        """Return the user's store: ``GOLDSMITH_STORE``, else ``goldsmith`` in the XDG cache directory."""
        env = os.environ if environment is None else environment
        if chosen := env.get("GOLDSMITH_STORE"):
            return cls(Path(chosen).absolute())
        if (cache := env.get("XDG_CACHE_HOME")) and Path(cache).is_absolute():
            return cls(Path(cache) / "goldsmith")
        home = env.get("HOME")
        if not home:
            raise UsageError("no place for the store: HOME is not set", hint="set GOLDSMITH_STORE=DIR")
        return cls(Path(home) / ".cache" / "goldsmith")

    def object_path(self, sha256: str) -> Path:
        """Return where the object lives, present or not."""
        if not is_sha256(sha256):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        return self.root / "sha256" / sha256

    def digest_of(self, path: Path) -> str | None:
        """Return the SHA-256 of an object of this store from its place alone, or None for other files."""
        return path.name if path.parent == self.root / "sha256" and is_sha256(path.name) else None

    def get(self, sha256: str, size: int) -> Path | None:
        """Return an object's path, or None when the store does not hold it.

        The content is hashed once per process and again when the file changed since. An object that is not
        what its name says is removed, so that it is fetched again and never used.
        """
        path = self.object_path(sha256)
        try:
            stat = path.stat()
        except FileNotFoundError:
            return None
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        if self._verified.get(sha256) == state:
            return path
        if stat.st_size == size and sha256_file(path) == sha256:
            self._verified[sha256] = state
            return path
        if stat.st_size == size or sha256_file(path) != sha256:
            path.unlink(missing_ok=True)
        return None

    def put_stream(self, chunks: Iterable[bytes], *, sha256: str, size: int) -> Path:
        """Take an object in: hashed while it is written, flushed, then renamed into place.

        Raises:
            FetchError: the bytes are not what ``sha256`` and ``size`` say; nothing is kept.
        """
        target = self.object_path(sha256)
        temporary = self._temporary(sha256)
        digest = hashlib.sha256()
        length = 0
        try:
            with temporary.open("xb") as handle:
                for chunk in chunks:
                    length += len(chunk)
                    if length > size:
                        raise FetchError(f"object {sha256}: more than the {size} bytes expected")
                    digest.update(chunk)
                    handle.write(chunk)
                handle.flush()
                os.fsync(handle.fileno())
            if length != size:
                raise FetchError(f"object {sha256}: expected {size} bytes, got {length}")
            if digest.hexdigest() != sha256:
                raise FetchError(f"object: expected SHA-256 {sha256}, got {digest.hexdigest()}")
            self._place(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return target

    @contextlib.contextmanager
    def partial(self, sha256: str) -> Iterator[Path]:
        """Hold the object's unfinished download alone; the file at the path may exist from an earlier try."""
        self.object_path(sha256)
        with locked(self.root / "locks" / f"partial-{sha256}"):
            folder = self.root / "partial"
            folder.mkdir(parents=True, exist_ok=True)
            yield folder / sha256

    def adopt(self, partial: Path, *, sha256: str, size: int) -> Path:
        """Move a finished download into place.

        Raises:
            FetchError: it is not what ``sha256`` and ``size`` say; it is removed.
        """
        actual_size = partial.stat().st_size
        actual = sha256_file(partial)
        if (actual, actual_size) != (sha256, size):
            partial.unlink()
            raise FetchError(
                f"expected {size} bytes with SHA-256 {sha256}, got {actual_size} bytes with {actual}"
            )
        with partial.open("rb") as handle:
            os.fsync(handle.fileno())
        target = self.object_path(sha256)
        self._place(partial, target)
        return target

    def derived(self, kind: str, key: str, make: Callable[[Path], None]) -> Path:
        """Return the value derived from inputs with the digest ``key``, making it when it is not there.

        Args:
            kind: names the computation and its version ("toolbox-1"); a change of the code changes it.
            key: SHA-256 (64 hex digits) over every input.
            make: writes a file or directory at the path it is given. It runs once, under a lock; the result
                is flushed and renamed into place, so nobody ever sees half of it.
        """
        if not is_sha256(key):
            raise ValueError(f"not a SHA-256: {key!r}")
        target = self.root / "derived" / kind / key
        if target.exists():
            return target
        with locked(self.root / "locks" / f"{kind}-{key}"):
            if target.exists():
                return target
            temporary = self._temporary(key)
            try:
                make(temporary)
                _flush(temporary)
                self._place(temporary, target)
            except BaseException:
                remove(temporary)
                raise
        return target

    def derived_bytes(
        self, kind: str, key: str, make: Callable[[Callable[[bytes], object]], None]
    ) -> memoryview:
        """Return derived bytes as a view of their file, whose content is hashed before it is used.

        The file ends with the SHA-256 of what comes before; a damaged one is removed and made again.

        Args:
            kind: as in `derived`.
            key: as in `derived`.
            make: writes the bytes through the function it is given.
        """

        def write(target: Path) -> None:
            digest = hashlib.sha256()
            with target.open("xb") as handle:

                def put(chunk: bytes) -> None:
                    digest.update(chunk)
                    handle.write(chunk)

                make(put)
                handle.write(digest.digest())

        for _ in range(2):
            path = self.derived(kind, key, write)
            view = _map(path)
            if len(view) >= 32 and hashlib.sha256(view[:-32]).digest() == bytes(view[-32:]):
                return view[:-32]
            path.unlink(missing_ok=True)
        raise FetchError(f"{path}: what was just written reads back differently; is the disk failing?")

    def _temporary(self, name: str) -> Path:
        folder = self.root / "temporary"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name[:16]}.{secrets.token_hex(6)}"

    @staticmethod
    def _place(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        sync_directory(target.parent)


def _map(path: Path) -> memoryview:
    with path.open("rb") as handle:
        if handle.seek(0, os.SEEK_END) == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))


def _flush(path: Path) -> None:
    if path.is_dir():
        os.sync()  # one call for thousands of files
        return
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def remove(path: Path) -> None:
    """Remove a file or a whole directory, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
