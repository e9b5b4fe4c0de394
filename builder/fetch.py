"""Bring every locked archive into the store: in parallel, resumable, hash-checked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from builder.artifacts import Archive
from builder.errors import FetchError, GoneError
from builder.progress import SILENT, Phase, Reporter
from builder.sources import AbsentError, Source, SourceError, describe
from builder.store import Store

JOBS = 8
_SHOWN = 5


class _StoppedError(Exception):
    """The user, or a failure elsewhere, ended the downloads; what has arrived stays for the next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    archive: Archive
    tried: tuple[str, ...]
    gone: bool


def fetch(
    archives: Iterable[Archive],
    store: Store,
    sources: Sequence[Source],
    *,
    recipe: str,
    reporter: Reporter = SILENT,
    jobs: int = JOBS,
) -> int:
    """Make the store hold every archive; return how many were brought now.

    Args:
        archives: what the lock names.
        store: checked first, and filled.
        sources: tried in their order.
        recipe: the image's name, for the hint.
        reporter: hears of bytes, and of a source that offered wrong content.
        jobs: downloads at a time.

    Raises:
        GoneError: every source answered, and none has some archive.
        FetchError: an archive could not be had for another reason (no network, damaged everywhere).
    """
    unique = {archive.sha256: archive for archive in archives}
    with reporter.phase("check store", total=len(unique)) as phase:
        missing = []
        for archive in sorted(unique.values(), key=lambda item: (item.name, item.version)):
            if store.get(archive.sha256, archive.size) is None:
                missing.append(archive)
            phase.advance(1)
    if not missing:
        return 0
    total = sum(archive.size for archive in missing)
    with (
        reporter.phase("fetch", total=total, unit="B") as phase,
        ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="fetch") as pool,
    ):
        # The largest first, so that none is left to run alone at the end.
        ordered = sorted(missing, key=lambda item: -item.size)
        stop = threading.Event()
        pending = [pool.submit(_bring, archive, store, sources, reporter, phase, stop) for archive in ordered]
        try:
            results = [done.result() for done in as_completed(pending)]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    failures = [failure for failure in results if failure is not None]
    if failures:
        raise _error(failures, sources, recipe)
    return len(missing)


def _bring(
    archive: Archive,
    store: Store,
    sources: Sequence[Source],
    reporter: Reporter,
    phase: Phase,
    stop: threading.Event,
) -> _Failure | None:
    def advance(amount: int) -> None:
        if stop.is_set():
            raise _StoppedError
        phase.advance(amount)

    tried: list[str] = []
    gone = True
    with store.partial(archive.sha256) as partial:
        if store.get(archive.sha256, archive.size) is not None:
            phase.advance(archive.size)  # another build was quicker
            return None
        for source in sources:
            # What an earlier run left may be damaged; then the same source gets one try from the start.
            for _ in range(2 if partial.exists() else 1):
                resumed = partial.exists()
                phase.detail(f"{archive.name} {archive.version}")
                try:
                    source.bring(archive, partial, advance)
                    store.adopt(partial, sha256=archive.sha256, size=archive.size)
                    return None
                except AbsentError as error:
                    tried.append(f"{source.name} {error}")
                    break
                except SourceError as error:
                    tried.append(f"{source.name}: {error}")
                    gone = False
                    break
                except FetchError as error:
                    if resumed:
                        continue
                    tried.append(f"{source.name} offers other content: {error}")
                    reporter.note(f"{archive.name} {archive.version}: {tried[-1]}")
    return _Failure(archive=archive, tried=tuple(tried), gone=gone)


def _error(failures: list[_Failure], sources: Sequence[Source], recipe: str) -> FetchError:
    failures.sort(key=lambda item: item.archive.name)
    gone = all(failure.gone for failure in failures)
    verb = "is gone from every source" if gone else "could not be had"
    lines = [f"of {len(failures)} locked archives each {verb}" if len(failures) > 1 else ""]
    for failure in failures[:_SHOWN]:
        archive = failure.archive
        lines.append(f"{archive.name} {archive.version} ({archive.sha256[:12]}…, {archive.path}) {verb}:")
        lines += [f"  {line}" for line in failure.tried or (describe(sources),)]
    if len(failures) > _SHOWN:
        lines.append("also " + ", ".join(failure.archive.name for failure in failures[_SHOWN:]))
    message = "\n".join(line for line in lines if line)
    if not gone:
        return FetchError(message, hint=f"try again, or name another --mirror: goldsmith fetch {recipe}")
    names = tuple(f"{failure.archive.name}={failure.archive.version}" for failure in failures)
    return GoneError(message, archives=names, hint=f"goldsmith lock {recipe}")
