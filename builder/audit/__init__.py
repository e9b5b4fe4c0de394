"""The audit: reads the final bytes of an image and holds them against the hardening profile (docs/audit.md)."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

from builder.artifacts import Lock
from builder.audit.image import MAX_DISK, MAX_UKI, AuditedImage, read_image
from builder.audit.model import AuditReport, Declared, Subject
from builder.audit.references import references_of
from builder.audit.run import apply_rules
from builder.errors import AuditError
from builder.store import Store
from builder.tar import Entry
from measurements.errors import FormatError


def audit_release(
    *,
    disk: Path,
    uki: Path,
    declared: Declared,
    lock: Lock,
    store: Store,
    kernel: Sequence[Entry] | None = None,
) -> AuditReport:
    """Audit a disk and its UKI: every rule of the profile over the very bytes of these two files.

    Args:
        disk: the raw disk; its ESP holds ``uki`` itself, or that with an Authenticode signature.
        uki: the unsigned UKI.
        declared: what the image is held against (`builder.audit.declare`, `builder.audit.report.read_declared`).
        lock: of the release; names the kernel package and systemd-analyze.
        store: holds both.
        kernel: entries of the kernel's package, where somebody has opened it already.

    Raises:
        AuditError: the files cannot be read as an image at all.
        FetchError: an archive of the lock is not in the store.
    """
    image = open_image(disk, uki)
    try:
        references = references_of(image.root, lock, store, kernel=kernel)
    except FormatError as error:
        raise AuditError(f"the units of {disk.name} cannot be read: {error}") from error
    return apply_rules(Subject(image=image, declared=declared, references=references))


def open_image(disk: Path, uki: Path) -> AuditedImage:
    """Read an image from its files.

    Raises:
        AuditError: they are not the image of a release; the message says which part.
    """
    try:
        return read_image(_map(disk, MAX_DISK), bytes(_map(uki, MAX_UKI)))
    except FormatError as error:
        raise AuditError(
            f"{disk.name} and {uki.name} cannot be audited: {error}",
            hint="the image is damaged, or not of this builder: goldsmith build writes a new one",
        ) from error
    except OSError as error:
        raise AuditError(f"cannot read {error.filename}: {error.strerror}") from error


def _map(path: Path, limit: int) -> memoryview:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if not 0 < size <= limit:
            raise AuditError(f"{path}: {size} bytes; expected 1 to {limit}")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
