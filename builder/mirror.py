"""Where the distribution's archive is: the host's own apt configuration, or what the user says.

No address is written here. Only the base addresses of the host's configuration are used; suites and
components come from the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import UsageError

MIRROR_VARIABLE = "GOLDSMITH_MIRROR"
_HINT = f"--mirror URL, or {MIRROR_VARIABLE}=URL: the address that has dists/ and pool/ below it"

#: Names a Debian archive's suites have had; third parties use these too, but not with the component "main".
_RELEASES = frozenset(
    ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable",
     "testing", "unstable")
)  # fmt: skip
_SECURITY_SUITE = re.compile(r"^(?P<release>[a-z]+)(-security|/updates)$")
_ARCHIVE_SUITE = re.compile(r"^(?P<release>[a-z]+)(-updates|-proposed-updates|-backports)?$")
_MAX_FILE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrors:
    """Base addresses, without a trailing slash.

    Attributes:
        archive: has ``dists/<suite>`` and ``pool/``.
        security: the same for ``<suite>-security``.
    """

    archive: str
    security: str

    def base(self, pocket: str) -> str:
        """Return the address that serves a pocket ("trixie", "trixie-updates", "trixie-security")."""
        return self.security if pocket.endswith("-security") else self.archive


def find_mirrors(option: str | None, environment: Mapping[str, str], apt: Path = Path("/etc/apt")) -> Mirrors:
    """Return the mirrors to use: ``option``, ``GOLDSMITH_MIRROR``, or the host's apt configuration.

    Raises:
        UsageError: an address is malformed, or the host knows no Debian archive.
    """
    chosen = option or environment.get(MIRROR_VARIABLE)
    if chosen:
        return _from_one(_checked(chosen))
    archive = security = None
    for uri, suite, components in _host_sources(apt):
        if "main" not in components:
            continue
        if (match := _SECURITY_SUITE.match(suite)) and match["release"] in _RELEASES:
            security = security or uri
        elif (match := _ARCHIVE_SUITE.match(suite)) and match["release"] in _RELEASES:
            archive = archive or uri
    if archive is None:
        raise UsageError(f"no Debian archive in the host's apt configuration ({apt})", hint=_HINT)
    return Mirrors(archive=archive, security=security or _from_one(archive).security)


def _from_one(archive: str) -> Mirrors:
    return Mirrors(archive=archive, security=f"{archive}-security")


def _checked(uri: str) -> str:
    if not re.fullmatch(r"https?://[^\s/\"';]+[^\s\"';]*", uri):
        raise UsageError(f"expected an http or https address as mirror, got {uri!r}", hint=_HINT)
    return uri.rstrip("/")


def _host_sources(apt: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (address, suite, components) of every enabled binary source, in apt's order."""
    files = [apt / "sources.list"]
    parts = apt / "sources.list.d"
    if parts.is_dir():
        files += sorted(path for path in parts.iterdir() if path.suffix in (".list", ".sources"))
    for path in files:
        try:
            text = path.read_bytes()[:_MAX_FILE].decode("utf-8", "replace")
        except OSError:
            continue
        for uri, suite, components in _deb822(text) if path.suffix == ".sources" else _one_line(text):
            for address in _expand(uri):
                yield address, suite, components


def _one_line(text: str) -> Iterator[tuple[str, str, list[str]]]:
    for line in text.splitlines():
        line = re.sub(r"\[[^\]]*\]", " ", line.split("#", 1)[0])
        words = line.split()
        if len(words) >= 3 and words[0] == "deb":
            yield words[1], words[2].rstrip("/"), words[3:]


def _deb822(text: str) -> Iterator[tuple[str, str, list[str]]]:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in " \t" and key:
                fields[key] += f" {line.strip()}"
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        if "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield uri, suite.rstrip("/"), fields.get("components", "").split()


def _expand(uri: str) -> Iterator[str]:
    """Yield the http addresses behind a source's address; cloud images list theirs in a file of mirrors."""
    if uri.startswith("mirror+file:"):
        listing = Path("/" + uri.removeprefix("mirror+file:").lstrip("/"))
        try:
            lines = listing.read_text(encoding="utf-8", errors="replace")[:_MAX_FILE].splitlines()
        except OSError:
            return
        for line in lines:
            words = line.split("#", 1)[0].split()
            if words and words[0].startswith(("http://", "https://")):
                yield words[0].rstrip("/")
    elif uri.startswith(("http://", "https://")):
        yield uri.rstrip("/")
