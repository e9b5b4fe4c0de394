"""Where archives come from, in the order they are tried: a vault, the mirror, a snapshot service.

Each source answers one question, "bring this archive": it does, it says that it has not got it
(`AbsentError`), or it fails (`SourceError`), which says nothing about whether the archive exists.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import httpx

from builder.artifacts import Archive
from builder.errors import BuilderError, UsageError
from builder.mirror import Mirrors

VAULT_VARIABLE = "GOLDSMITH_VAULT"
SNAPSHOT_VARIABLE = "GOLDSMITH_SNAPSHOT"

_CHUNK = 1 << 18
_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_ATTEMPTS = 4
_BACKOFF = 0.5
_ABSENT = frozenset({404, 410})
_RETRY = frozenset({408, 425, 429, 500, 502, 503, 504})
# A snapshot is the last one taken at or before its time; an archive stays listed for longer than this.
_SNAPSHOT_DELAY = 12 * 3600


class SourceError(BuilderError):
    """A source could not be asked, or broke off."""


class AbsentError(SourceError):
    """A source answered, and has not got the archive."""


class Source(Protocol):
    """One place archives can be had from. A registry of OCI artifacts would be another."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def bring(self, archive: Archive, partial: Path, advance: Callable[[int], None]) -> None:
        """Write the archive to ``partial``, going on from what is there; the caller checks the hash.

        Raises:
            AbsentError: it is not there.
            SourceError: it cannot be said, or the transfer broke off.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class VaultSource:
    """A folder ``sha256/<hex>`` that someone filled with ``goldsmith vault``."""

    folder: Path

    @property
    def name(self) -> str:
        """See `Source`."""
        return f"vault {self.folder}"

    def bring(self, archive: Archive, partial: Path, advance: Callable[[int], None]) -> None:
        """See `Source`."""
        try:
            with (self.folder / "sha256" / archive.sha256).open("rb") as held, partial.open("wb") as handle:
                while chunk := held.read(_CHUNK):
                    handle.write(chunk)
                    advance(len(chunk))
                    if handle.tell() > archive.size:
                        return  # longer than the lock says: the check of the hash names it
        except FileNotFoundError:
            raise AbsentError("has not got it") from None
        except OSError as error:
            raise SourceError(f"cannot be read: {error.strerror}") from error


@dataclass(frozen=True, kw_only=True)
class HttpSource:
    """Archives below some addresses, asked one after the other.

    Attributes:
        name: what messages call it.
        client: shared by all threads.
        addresses: archive -> addresses to try.
        sleep: waits between attempts (seconds).
        unreachable: hosts that took no connection in all attempts; further archives ask them once.
    """

    name: str
    client: httpx.Client
    addresses: Callable[[Archive], tuple[str, ...]]
    sleep: Callable[[float], None] = field(default=time.sleep)
    unreachable: set[str] = field(default_factory=set)

    def bring(self, archive: Archive, partial: Path, advance: Callable[[int], None]) -> None:
        """See `Source`."""
        absent: AbsentError | None = None
        for address in self.addresses(archive):
            try:
                self._download(address, archive, partial, advance)
                return
            except AbsentError as error:
                absent = error
        raise absent or AbsentError("knows no address for it")

    def _download(
        self, address: str, archive: Archive, partial: Path, advance: Callable[[int], None]
    ) -> None:
        host = httpx.URL(address).netloc.decode()
        attempts = 1 if host in self.unreachable else _ATTEMPTS
        for attempt in range(attempts):
            try:
                self._once(address, archive, partial, advance)
                return
            except AbsentError:
                raise
            except (SourceError, httpx.TransportError) as error:
                if attempt == attempts - 1:
                    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                        self.unreachable.add(host)
                    reason = str(error) or type(error).__name__
                    tried = f"{attempts} attempts" if attempts > 1 else "1 attempt"
                    raise SourceError(f"{reason} ({tried})") from error
                self.sleep(_BACKOFF * 2**attempt)

    def _once(self, address: str, archive: Archive, partial: Path, advance: Callable[[int], None]) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        if have >= archive.size:
            partial.unlink()
            have = 0
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with self.client.stream("GET", address, headers=headers) as response:
            status = response.status_code
            if status in _ABSENT:
                raise AbsentError(f"has not got it (HTTP {status})")
            if status == 416:
                partial.unlink(missing_ok=True)
                raise SourceError("HTTP 416: cannot go on from where the download stopped")
            if status in _RETRY:
                raise SourceError(f"HTTP {status}")
            if status not in (200, 206):
                raise AbsentError(f"does not give it (HTTP {status})")
            resumed = status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if status == 206 and not resumed:
                raise SourceError(f"answered with another range than bytes {have}-")
            advance(have if resumed else 0)
            with partial.open("ab" if resumed else "wb") as handle:
                length = have if resumed else 0
                for chunk in response.iter_raw():
                    length += len(chunk)
                    if length > archive.size:
                        break
                    handle.write(chunk)
                    advance(len(chunk))
        if length > archive.size:
            partial.unlink()
            raise AbsentError(f"offers a longer file than the {archive.size} bytes locked")
        if length < archive.size:
            raise SourceError(f"broke off after {length} of {archive.size} bytes")


def mirror_source(mirrors: Mirrors, client: httpx.Client) -> HttpSource:
    """Return the mirror as a source; a security update is also looked for in the main archive."""

    def addresses(archive: Archive) -> tuple[str, ...]:
        bases = dict.fromkeys((mirrors.base(archive.pocket), mirrors.archive))
        return tuple(f"{base}/{_quoted(archive.path)}" for base in bases)

    return HttpSource(name=f"mirror {mirrors.archive}", client=client, addresses=addresses)


def snapshot_source(template: str, dates: Mapping[str, int], client: httpx.Client) -> HttpSource:
    """Return a snapshot service as a source.

    Args:
        template: an address with ``{archive}`` (debian, debian-security), ``{timestamp}``
            (20261122T120000Z), ``{path}`` (pool/…) and ``{sha256}``; without ``{``, the usual layout
            ``/archive/{archive}/{timestamp}/{path}`` is added.
        dates: pocket -> date of the index the lock was resolved from, seconds since 1970.
        client: shared by all threads.

    Raises:
        UsageError: an unknown placeholder, or no address.
    """
    if not template.startswith(("http://", "https://")):
        raise UsageError(f"{SNAPSHOT_VARIABLE}: expected an http or https address, got {template!r}")
    if "{" not in template:
        template = template.rstrip("/") + "/archive/{archive}/{timestamp}/{path}"
    newest = max(dates.values(), default=0)

    def addresses(archive: Archive) -> tuple[str, ...]:
        moment = time.gmtime(dates.get(archive.pocket, newest) + _SNAPSHOT_DELAY)
        return (
            template.format(
                archive="debian-security" if archive.pocket.endswith("-security") else "debian",
                timestamp=time.strftime("%Y%m%dT%H%M%SZ", moment),
                path=_quoted(archive.path),
                sha256=archive.sha256,
            ),
        )

    try:
        template.format(archive="", timestamp="", path="", sha256="")
    except (KeyError, IndexError, ValueError) as error:
        raise UsageError(
            f"{SNAPSHOT_VARIABLE}: expected only {{archive}}, {{timestamp}}, {{path}}, {{sha256}} in the "
            f"template: {error}"
        ) from error
    return HttpSource(name=f"snapshot {template.split('{')[0]}", client=client, addresses=addresses)


def http_client(proxies: Mapping[str, str] | None = None) -> httpx.Client:
    """Return a client for downloads: proxies from the environment, else those of the host's apt.

    Args:
        proxies: scheme ("http", "https") -> address, as apt is configured.
    """
    mounts = {
        f"{scheme}://": httpx.HTTPTransport(proxy=address, retries=1)
        for scheme, address in (proxies or {}).items()
    }
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, max_redirects=5, mounts=mounts or None)


def describe(sources: Iterable[Source]) -> str:
    """Return the names of sources for a message."""
    return ", ".join(source.name for source in sources) or "no source is configured"


def _quoted(path: str) -> str:
    return quote(path, safe="/~+:%")
