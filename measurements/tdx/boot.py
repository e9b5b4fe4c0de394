"""The facts of one boot of a trust domain that several registers need, each worked out once.

The firmware and everything after it measure the same events as on a machine with a TPM; TdTcg2Dxe maps their PCRs
to RTMRs. So the events come from ``measurements.tpm``, and only their order in a register is told here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from measurements.errors import FormatError, NotPredictableError
from measurements.events import Event, EventType, HashAlgorithm, digests_of
from measurements.formats import tdvf, varstore
from measurements.formats.tdvf import SectionType, Tdvf
from measurements.platforms.qemu_kernel import UNPATCHED_SINCE, patched_kernel
from measurements.prediction import BootPath
from measurements.tdx import td_hob
from measurements.tdx.firmware import TdvfBuild
from measurements.tdx.firmware import examine as examine_firmware
from measurements.tdx.inputs import TdxInputs
from measurements.tdx.td_hob import Vmm
from measurements.tpm.boot import CALIBRATE, Boot, examine_boot
from measurements.tpm.inputs import TpmInputs

#: A TDX module's registers and the event log of a trust domain know one hash.
BANKS: Final = (HashAlgorithm.SHA384,)

NO_IMAGE: Final = "not predictable: no image was given; pass the kernel or UKI that the trust domain starts"
#: Upstream QEMU builds trust domains since this release.
UPSTREAM_QEMU: Final = (10, 1)
#: The first QEMU that offers the kernel's file unchanged as etc/boot/kernel.
_NAMED_BLOBS_QEMU = (10, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelVariant:
    """One form of the image that the firmware may get to see.

    Attributes:
        label: tells it from the others; empty when there is one.
        boot: the boot with this form of the image.
    """

    label: str
    boot: Boot = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxBoot:
    """One boot, parsed.

    Attributes:
        inputs: what it was parsed from.
        tdvf: the firmware's metadata.
        build: what the firmware measures.
        variants: forms of the image, the usual one first; empty without an image.
        variants_problem: why there are none, for an image that was given.
        variables_problem: why the firmware's variables are not known; ``None`` when they are.
    """

    inputs: TdxInputs
    tdvf: Tdvf = field(repr=False)
    build: TdvfBuild = field(repr=False)
    variants: tuple[KernelVariant, ...]
    variants_problem: str | None
    variables_problem: str | None

    @property
    def boot(self) -> Boot:
        """Return the boot of the usual form of the image.

        Raises:
            NotPredictableError: there is no image, or how the VMM hands it on is not known.
        """
        if not self.variants:
            raise NotPredictableError(self.variants_problem or NO_IMAGE)
        return self.variants[0].boot

    def hob(self) -> bytes:
        """Return the TD HOB; raises as ``td_hob.build``."""
        return td_hob.build(self.tdvf, self.inputs.memory, self.inputs.vmm)


def examine(inputs: TdxInputs) -> TdxBoot:
    """Parse the inputs.

    Raises:
        FormatError: the firmware has no TDVF metadata, or the image is no PE image.
        PredictionError: the image cannot boot.
    """
    metadata = tdvf.parse(inputs.firmware)
    build = examine_firmware(inputs.firmware, metadata, inputs.profiles)
    variables, variables_problem = _variables(inputs, metadata)
    variants: tuple[KernelVariant, ...] = ()
    problem = None
    if inputs.image is not None:
        try:
            variants = tuple(
                KernelVariant(label=label, boot=_boot(inputs, build, image, variables))
                for label, image in _images(inputs, inputs.image, build)
            )
        except NotPredictableError as error:
            problem = str(error)
    return TdxBoot(
        inputs=inputs,
        tdvf=metadata,
        build=build,
        variants=variants,
        variants_problem=problem,
        variables_problem=variables_problem,
    )


def require_profile(boot: TdxBoot) -> None:
    """Let known firmware pass.

    Raises:
        NotPredictableError: no profile knows it.
    """
    if boot.build.profile is None:
        raise NotPredictableError(CALIBRATE)


def to_rtmr(index: int, events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events with the RTMR's index in place of the PCR's."""
    return (replace(event, register=index) for event in events)


def event(
    index: int, kind: EventType, content: bytes, *, description: str, cause: str, data: bytes | None
) -> Event:
    """Return the event that extends the digest of ``content``."""
    return Event(
        register=index,
        type=kind,
        digests=digests_of(content, BANKS),
        description=description,
        cause=cause,
        data=data,
    )


def _images(inputs: TdxInputs, image: bytes, build: TdvfBuild) -> Iterator[tuple[str, bytes]]:
    """Yield (label, image) for each form in which the firmware may get the image."""
    if inputs.boot is BootPath.DISK:
        yield "", image
        return
    named = None if build.volumes is None else build.volumes.named_kernel_blobs
    version = inputs.qemu or UPSTREAM_QEMU
    if version >= UNPATCHED_SINCE or (named and version >= _NAMED_BLOBS_QEMU):
        yield "", image
        return
    patched = patched_kernel(
        image,
        memory=inputs.memory,
        command_line=inputs.command_line,
        initrd_size=0 if inputs.initrd is None else len(inputs.initrd),
    )
    if patched != image and (inputs.qemu is None or (named is None and version >= _NAMED_BLOBS_QEMU)):
        yield "kernel as in the file", image
        yield "kernel with QEMU's setup header", patched
    else:
        yield "", patched


def _variables(inputs: TdxInputs, metadata: Tdvf) -> tuple[bytes | None, str | None]:
    """Return the variable store in the firmware file, or why it is not known."""
    if inputs.vmm is Vmm.GCE:
        return None, "not predictable: Compute Engine brings variables of its own"
    try:
        store = bytes(metadata.only(SectionType.CFV).data)
        varstore.parse(store)
    except FormatError as error:
        return None, f"not predictable: the firmware's variables cannot be read: {error}"
    return store, None


def _boot(inputs: TdxInputs, build: TdvfBuild, image: bytes, variables: bytes | None) -> Boot:
    return examine_boot(
        TpmInputs(
            firmware_name=inputs.firmware_name,
            firmware=inputs.firmware,
            boot=inputs.boot,
            machine="" if inputs.qemu is None else "pc-q35-{}.{}".format(*inputs.qemu),
            memory_mib=inputs.memory_mib,
            vcpus=inputs.vcpus,
            image=image,
            disk=inputs.disk,
            variables=variables,
            acpi=inputs.acpi,
            smbios=inputs.smbios,
            boot_devices=inputs.boot_devices,
            random_numbers=inputs.random_numbers,
            banks=BANKS,
            acpi_problem=inputs.acpi_problem,
        ),
        profile=build.profile,
        firmware=build.volumes,
        firmware_problem=build.volumes_problem,
    )
