"""What a command line and the environment say about where inputs come from, made into sources."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.artifacts import Lock
from builder.errors import ToolError, UsageError
from builder.mirror import Mirrors, find_mirrors
from builder.sources import (
    SNAPSHOT_VARIABLE,
    VAULT_VARIABLE,
    Source,
    VaultSource,
    http_client,
    mirror_source,
    snapshot_source,
)
from builder.tools import HOST

_PROXY = re.compile(r'^Acquire::(https?)::Proxy "(http[^"\n]+)";$', re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputOptions:
    """What the user said; None means: take the environment, then the host.

    Attributes:
        mirror: address of the archive.
        vault: folder ``sha256/<hex>``.
        snapshot: address or template of a snapshot service.
    """

    mirror: str | None = None
    vault: Path | None = None
    snapshot: str | None = None

    def mirrors(self, environment: Mapping[str, str] | None = None) -> Mirrors:
        """Return the mirrors; see `find_mirrors`."""
        return find_mirrors(self.mirror, os.environ if environment is None else environment)


@contextlib.contextmanager
def open_sources(
    options: InputOptions, lock: Lock, environment: Mapping[str, str] | None = None
) -> Iterator[Sequence[Source]]:
    """Open the sources of a lock's archives in the order they are tried: vault, mirror, snapshot service.

    A host without any mirror still has its vault and its snapshot service.

    Raises:
        UsageError: the vault is no folder, an address is malformed, or there is no source at all.
    """
    env = os.environ if environment is None else environment
    sources: list[Source] = []
    vault = options.vault or (Path(env[VAULT_VARIABLE]) if env.get(VAULT_VARIABLE) else None)
    if vault is not None:
        if not (vault / "sha256").is_dir():
            raise UsageError(f"the vault {vault} has no folder sha256", hint="goldsmith vault DIR RECIPE")
        sources.append(VaultSource(folder=vault))
    snapshot = options.snapshot or env.get(SNAPSHOT_VARIABLE)
    with http_client(_apt_proxies(env)) as client:
        try:
            sources.append(mirror_source(options.mirrors(env), client))
        except UsageError:
            if options.mirror or not (sources or snapshot):
                raise
        if snapshot:
            dates = {index.pocket: index.date for index in lock.indexes}
            sources.append(snapshot_source(snapshot, dates, client))
        yield sources


def _apt_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies of the host's apt, where the environment names none."""
    try:
        dump = HOST.run("apt-config", "dump").stdout.decode("utf-8", "replace")
    except ToolError:
        return {}
    found = {scheme.lower(): address for scheme, address in _PROXY.findall(dump)}
    return {
        scheme: address
        for scheme, address in found.items()
        if not (environment.get(f"{scheme}_proxy") or environment.get(f"{scheme.upper()}_PROXY"))
    }
