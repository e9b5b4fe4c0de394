"""GPUs in a golden document: what the image expects of them (docs/golden-format.md, "GPUs").

The member is absent where the image is for machines without a GPU, and in documents of goldsmith before it had one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from measurements.golden.differences import Difference
from measurements.gpu.expectations import GpuExpectations, RimReference, from_fields
from measurements.moments import format_time
from measurements.strictjson import Fields

MEMBER: Final = "gpu"


def read(fields: Fields) -> GpuExpectations | None:
    """Read member ``gpu`` of the document, if it has one.

    Raises:
        FormatError, LimitError: as ``measurements.golden.parse``.
    """
    return from_fields(fields.fields(MEMBER)) if fields.has(MEMBER) else None


def gpu_differences(old: GpuExpectations | None, new: GpuExpectations | None) -> Iterator[Difference]:
    """Yield what an image expects otherwise than before."""
    for what, first, second in _pairs(old, new):
        if first != second:
            yield Difference(where=MEMBER, what=what, cause=None, old=first, new=second)


def _pairs(
    old: GpuExpectations | None, new: GpuExpectations | None
) -> Iterator[tuple[str, str | None, str | None]]:
    if old is None or new is None:
        yield "expectations", _presence(old), _presence(new)
        return
    yield "architecture", old.architecture.value, new.architecture.value
    yield "driver version", old.driver_version, new.driver_version
    yield "count", str(old.count), str(new.count)
    yield "NVSwitches", str(old.nvswitches), str(new.nvswitches)
    yield "allowed VBIOS versions", _versions(old), _versions(new)
    before, after = ({rim.id: rim for rim in each.rims} for each in (old, new))
    for identifier in sorted({*before, *after}):
        yield f"RIM {identifier}", _rim(before.get(identifier)), _rim(after.get(identifier))


def _presence(expectations: GpuExpectations | None) -> str | None:
    if expectations is None:
        return None
    return f"{expectations.count} of {expectations.architecture}, driver {expectations.driver_version}"


def _versions(expectations: GpuExpectations) -> str:
    return "as the RIMs" if expectations.vbios is None else " ".join(expectations.vbios)


def _rim(rim: RimReference | None) -> str | None:
    return None if rim is None else f"sha256 {rim.sha256}, judged at {format_time(rim.judged_at)}"
