"""SEV-SNP launches in a golden document: the launch digest, and the pages that explain it.

docs/golden-format.md, 6. The firmware's own pages are one number, the digest after them, since its digest stands beside
them; everything else is written out, so that a reader folds the launch digest itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from measurements.errors import FormatError, LimitError
from measurements.events import Digest, HashAlgorithm
from measurements.golden import model
from measurements.golden.identity import read_firmware, write_firmware
from measurements.golden.registers import choice
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.snp import features
from measurements.snp.cpu import MAX_SIGNATURE
from measurements.snp.launch import MAX_VCPUS, Launch, LaunchDigests
from measurements.snp.pages import DIGEST_SIZE, PAGE_SIZE, PageType, Region, extend_page
from measurements.snp.vmsa import Vmm
from measurements.strictjson import Fields

MAX_STEPS: Final = 256
#: Pages of one launch that a reader folds, those of the firmware not counted.
MAX_PAGES: Final = 1 << 15
#: Pages of all launches together.
MAX_FOLDS: Final = 1 << 20
_MAX_ADDRESS = 1 << 52
_WHAT = "golden document: sev_snp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Consecutive pages of one kind.

    Attributes:
        type: how the VMM adds them.
        address: guest physical address of the first.
        pages: how many follow each other; one where contents are measured.
        times: how often they are added under the same address; more than once for vCPUs alone.
        contents: SHA-384 of the page; ``None`` for kinds whose contents are not measured.
        cause: the input that decides them ("kernel hashes", "vCPU 1").
    """

    type: PageType
    address: int
    pages: int
    times: int
    contents: bytes | None = field(repr=False)
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SevSnpReference:
    """What one SEV-SNP launch of the image measures.

    Attributes:
        platform: the name that a recipe gives the platform ("qemu-snp").
        firmware: the firmware file.
        boot: ``DIRECT``: kernel hashes bind the UKI; ``DISK``: the digest says nothing of what boots.
        vmm: who starts the guest.
        cpu: the CPU model; ``None`` where the VMM does not measure it.
        signature: its CPUID Fn0000_0001_EAX; ``None`` likewise.
        vcpus: number of virtual CPUs.
        features: SEV_FEATURES.
        loaded: the launch digest after the firmware, 48 bytes.
        loaded_pages: how many pages that were.
        steps: everything after it, in order.
    """

    platform: str
    firmware: FirmwareIdentity
    boot: BootPath
    vmm: Vmm
    cpu: str | None
    signature: int | None
    vcpus: int
    features: int
    loaded: bytes = field(repr=False)
    loaded_pages: int
    steps: tuple[Step, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """A stable name, unique in a document: ``qemu-snp/ovmf-amdsev/direct/EPYC-Milan/2-vcpus``."""
        parts = [
            self.platform,
            self.firmware.name,
            str(self.boot),
            self.cpu or "any-cpu",
            f"{self.vcpus}-vcpus",
        ]
        if self.features != features.DEFAULT:
            parts.append(f"features-{self.features:x}")
        return "/".join(parts)

    @property
    def pages(self) -> int:
        """Number of measured pages."""
        return self.loaded_pages + sum(step.pages * step.times for step in self.steps)

    @property
    def launch_digest(self) -> Digest:
        """The launch digest: the fold of ``steps`` over ``loaded``."""
        digest = self.loaded
        for step in self.steps:
            for _ in range(step.times):
                for number in range(step.pages):
                    digest = extend_page(
                        digest,
                        type=step.type,
                        address=step.address + number * PAGE_SIZE,
                        contents=step.contents,
                    )
        return Digest(HashAlgorithm.SHA384, digest)


def sev_snp_reference(
    digests: LaunchDigests,
    launch: Launch,
    *,
    platform: str,
    firmware: FirmwareIdentity,
    boot: BootPath,
    cpu: str | None,
) -> SevSnpReference:
    """Return the reference values of a launch.

    Raises:
        PredictionError: the options contradict each other, or the firmware lacks what the launch needs.
    """
    loaded, loaded_pages = digests.loaded()
    return SevSnpReference(
        platform=platform,
        firmware=firmware,
        boot=boot,
        vmm=launch.vmm,
        cpu=cpu,
        signature=launch.signature,
        vcpus=launch.vcpus,
        features=launch.features,
        loaded=loaded,
        loaded_pages=loaded_pages,
        steps=_joined(step for region in digests.added(launch) for step in _steps(region)),
    )


def _steps(region: Region) -> Iterator[Step]:
    whole = Step(
        type=region.type,
        address=region.address,
        pages=region.pages,
        times=1,
        contents=None,
        cause=region.cause,
    )
    if region.data is None:
        yield whole
        return
    for offset in range(0, region.size, PAGE_SIZE):
        contents = hashlib.sha384(memoryview(region.data)[offset : offset + PAGE_SIZE]).digest()
        yield replace(whole, address=region.address + offset, pages=1, contents=contents)


def _joined(steps: Iterator[Step]) -> tuple[Step, ...]:
    """Join what is added again under the same address: the state of the second vCPU and of all others."""
    joined: list[Step] = []
    for step in steps:
        last = joined[-1] if joined else None
        if (
            last is not None
            and step.contents is not None
            and replace(step, cause="") == replace(last, cause="", times=1)
        ):
            first = last.cause.partition(" to ")[0]
            joined[-1] = replace(last, times=last.times + 1, cause=f"{first} to {step.cause.split()[-1]}")
        else:
            joined.append(step)
    return tuple(joined)


def write(reference: SevSnpReference) -> dict[str, Any]:
    """Return a launch as JSON values."""
    launch = write_launch(reference)
    loaded = launch.pop("loaded")
    return launch | {
        "launch_digest": reference.launch_digest.hex(),
        "loaded": loaded,
        "steps": [write_step(step) for step in reference.steps],
    }


def write_launch(reference: SevSnpReference) -> dict[str, Any]:
    """Return a launch as JSON values, without its steps and what they fold into."""
    return {
        "name": reference.name,
        "platform": reference.platform,
        "firmware": write_firmware(reference.firmware),
        "boot": reference.boot.value,
        "vmm": reference.vmm.value,
        "cpu": reference.cpu,
        "signature": reference.signature,
        "vcpus": reference.vcpus,
        "guest_features": f"{reference.features:016x}",
        "loaded": {"pages": reference.loaded_pages, "value": reference.loaded.hex()},
    }


def write_step(step: Step) -> dict[str, Any]:
    """Return one step as JSON values."""
    return {
        "type": step.type.name.lower(),
        "address": step.address,
        "pages": step.pages,
        "times": step.times,
        "contents": None if step.contents is None else step.contents.hex(),
        "cause": step.cause,
    }


def read_all(fields: Fields) -> tuple[SevSnpReference, ...]:
    """Read the member ``sev_snp`` and fold every launch digest.

    Raises:
        FormatError: a member is missing, unknown or of the wrong type; a stated digest is not the fold.
        LimitError: more than a named limit of this module or of ``measurements.golden.model``.
    """
    references: list[SevSnpReference] = []
    folds = 0
    for position, item in enumerate(fields.array("sev_snp", max_items=model.MAX_CONFIDENTIAL)):
        entry = Fields(item, f"{_WHAT}[{position}]")
        reference = replace(read_launch(entry), steps=_read_steps(entry))
        folds += reference.pages - reference.loaded_pages
        if folds > MAX_FOLDS:
            raise LimitError(f"{_WHAT}: more than {MAX_FOLDS} pages to fold")
        stated, folded = entry.raw("launch_digest"), reference.launch_digest.hex()
        if stated != folded:
            raise FormatError(
                f"{entry.where}: launch_digest is {str(stated)[:120]!r}; its steps make it {folded!r}"
            )
        entry.end()
        references.append(reference)
    return tuple(references)


def read_launch(fields: Fields) -> SevSnpReference:
    """Read what ``write_launch`` writes, into a launch without steps.

    Raises:
        FormatError, LimitError: as ``read_all``.
    """
    loaded = fields.fields("loaded")
    cpu = fields.optional_text("cpu", max_length=model.MAX_NAME)
    if cpu is not None and model.NAME.fullmatch(cpu) is None:
        raise FormatError(f"{fields.where}: cpu is {cpu[:40]!r}; expected a name")
    signature = (
        None if fields.raw("signature") is None else fields.integer("signature", maximum=MAX_SIGNATURE)
    )
    reference = SevSnpReference(
        platform=fields.text("platform", max_length=model.MAX_NAME, pattern=model.NAME),
        firmware=read_firmware(fields),
        boot=choice(BootPath, fields.raw("boot"), f"{fields.where}: boot"),
        vmm=choice(Vmm, fields.raw("vmm"), f"{fields.where}: vmm"),
        cpu=cpu,
        signature=signature,
        vcpus=fields.integer("vcpus", minimum=1, maximum=MAX_VCPUS),
        features=int.from_bytes(fields.hex("guest_features", size=8), "big"),
        loaded=loaded.hex("value", size=DIGEST_SIZE),
        loaded_pages=loaded.integer("pages", minimum=1, maximum=MAX_PAGES),
        steps=(),
    )
    loaded.end()
    name = fields.raw("name")
    if name != reference.name:
        raise FormatError(
            f"{fields.where}: name is {str(name)[:120]!r}; its own fields make it {reference.name!r}"
        )
    return reference


def _read_steps(fields: Fields) -> tuple[Step, ...]:
    steps = tuple(
        read_step(Fields(item, f"{fields.where}: steps[{position}]"))
        for position, item in enumerate(fields.array("steps", max_items=MAX_STEPS, min_items=1))
    )
    check_pages(steps, fields.where)
    return steps


def check_pages(steps: Iterable[Step], where: str) -> None:
    """Raise LimitError when a launch has more pages than a reader folds."""
    if sum(step.pages * step.times for step in steps) > MAX_PAGES:
        raise LimitError(f"{where}: more than {MAX_PAGES} pages")


def read_step(fields: Fields) -> Step:
    """Read what ``write_step`` writes; raises FormatError, LimitError."""
    kind = fields.text("type", max_length=16)
    known = {member.name.lower(): member for member in PageType}
    if kind not in known:
        raise FormatError(f"{fields.where}: type {kind!r}; expected one of {sorted(known)}")
    step = Step(
        type=known[kind],
        address=fields.integer("address", maximum=_MAX_ADDRESS - PAGE_SIZE),
        pages=fields.integer("pages", minimum=1, maximum=MAX_PAGES),
        times=fields.integer("times", minimum=1, maximum=MAX_VCPUS),
        contents=None if fields.raw("contents") is None else fields.hex("contents", size=DIGEST_SIZE),
        cause=fields.text("cause", max_length=model.MAX_TEXT),
    )
    fields.end()
    measured = step.type in (PageType.NORMAL, PageType.VMSA)
    if measured != (step.contents is not None) or (measured and step.pages != 1):
        raise FormatError(
            f"{fields.where}: {step.pages} pages of type {kind} "
            f"{'without' if step.contents is None else 'with'} contents; contents are of one page, and of the types "
            "normal and vmsa alone"
        )
    return step
