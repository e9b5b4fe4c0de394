"""Trust domains in a golden document: MRTD by the order in which pages are added, and the events of each RTMR.

docs/golden-format.md, 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from measurements.errors import FormatError, PredictionError
from measurements.events import Digest, HashAlgorithm, RegisterPrediction, Stability
from measurements.golden import model
from measurements.golden.identity import read_firmware, read_gpus, write_firmware
from measurements.golden.registers import Table, choice, identifier, read_ids, read_table, write_table
from measurements.prediction import BootPath, FirmwareIdentity, gpu_part
from measurements.strictjson import Fields
from measurements.tdx.inputs import TdxInputs
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import TdxPrediction
from measurements.tdx.td_hob import Vmm

#: RTMR0 to RTMR3, all SHA-384 (Intel TDX Module Base Architecture, "Measurement and attestation").
LAST_RTMR: Final = 3
BANKS: Final = (HashAlgorithm.SHA384,)
_WHAT = "golden document: tdx"
_STABILITY = {0: Stability.VM_SHAPE, 1: Stability.IMAGE, 2: Stability.IMAGE}


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxReference:
    """What one trust domain that runs the image measures.

    Attributes:
        platform: the name that a recipe gives the platform ("qemu-tdx").
        firmware: the firmware file, code and variables.
        boot: how the firmware finds the UKI.
        vmm: who builds the trust domain.
        machine: QEMU's versioned machine type; ``None`` where there is none.
        memory_mib: guest RAM in MiB.
        vcpus: number of virtual CPUs.
        gpus: how many GPUs the host passes through.
        mrtd: by the order in which the VMM adds and extends pages; each is acceptable.
        td_hob: digest of the TD HOB's measured part; ``None`` when it is not known.
        registers: RTMR0 to RTMR3.
    """

    platform: str
    firmware: FirmwareIdentity
    boot: BootPath
    vmm: Vmm
    machine: str | None
    memory_mib: int
    vcpus: int
    mrtd: Mapping[PageOrder, Digest]
    td_hob: Digest | None
    registers: tuple[RegisterPrediction, ...] = field(repr=False)
    gpus: int = 0

    @property
    def name(self) -> str:
        """A stable name, unique in a document: ``qemu-tdx/ovmf-inteltdx/direct/2-vcpus/2048-mib``."""
        parts = [
            self.platform,
            self.firmware.name,
            str(self.boot),
            f"{self.vcpus}-vcpus",
            f"{self.memory_mib}-mib",
            *gpu_part(self.gpus),
        ]
        return "/".join(parts)


def tdx_reference(
    prediction: TdxPrediction, inputs: TdxInputs, *, platform: str, machine: str | None
) -> TdxReference:
    """Return the reference values of a trust domain.

    Raises:
        PredictionError: its MRTD is not predictable, so that nothing would bind the firmware.
    """
    if not prediction.mrtd:
        raise PredictionError(f"MRTD of {prediction.firmware.name}: {prediction.mrtd_reason}")
    return TdxReference(
        platform=platform,
        firmware=prediction.firmware,
        boot=inputs.boot,
        vmm=inputs.vmm,
        machine=machine,
        memory_mib=inputs.memory_mib,
        vcpus=inputs.vcpus,
        gpus=inputs.gpus,
        mrtd=dict(prediction.mrtd),
        td_hob=None if prediction.hob is None else Digest.of(HashAlgorithm.SHA384, prediction.hob),
        registers=tuple(
            RegisterPrediction(
                index=register.index,
                stability=_STABILITY[register.index] if register.courses else Stability.NOT_PINNED,
                alternatives=register.courses,
                reason=register.reason,
            )
            for register in prediction.registers
        ),
    )


def write_all(references: tuple[TdxReference, ...]) -> dict[str, Any]:
    """Return the member ``tdx`` as JSON values."""
    table: Table[RegisterPrediction] = {}
    shapes = [_write(reference, table) for reference in references]
    return {"shapes": shapes, "registers": write_table(table, BANKS)}


def _write(reference: TdxReference, table: Table[RegisterPrediction]) -> dict[str, Any]:
    return write_launch(reference) | {
        "registers": [identifier(register, table) for register in reference.registers],
    }


def write_launch(reference: TdxReference) -> dict[str, Any]:
    """Return a launch as JSON values, without its registers."""
    return {
        "name": reference.name,
        "platform": reference.platform,
        "firmware": write_firmware(reference.firmware),
        "boot": reference.boot.value,
        "vmm": reference.vmm.value,
        "machine": reference.machine,
        "memory_mib": reference.memory_mib,
        "vcpus": reference.vcpus,
        **({"gpus": reference.gpus} if reference.gpus else {}),
        "mrtd": {order.value: reference.mrtd[order].hex() for order in PageOrder},
        "td_hob": None if reference.td_hob is None else reference.td_hob.hex(),
    }


def read_all(fields: Fields) -> tuple[TdxReference, ...]:
    """Read the member ``tdx`` and refold every RTMR.

    Raises:
        FormatError: a member is missing, unknown or of the wrong type; a stated value is not the fold.
        LimitError: a named limit of ``measurements.golden.model`` is exceeded.
    """
    entry = fields.fields("tdx")
    registers = read_table(entry, BANKS, last_index=LAST_RTMR, min_items=0)
    references = tuple(
        _read(Fields(item, f"{_WHAT}: shapes[{position}]"), registers)
        for position, item in enumerate(entry.array("shapes", max_items=model.MAX_CONFIDENTIAL))
    )
    entry.end()
    return references


def _read(fields: Fields, registers: Mapping[str, RegisterPrediction]) -> TdxReference:
    reference = replace(read_launch(fields), registers=read_ids(fields, registers, max_items=LAST_RTMR + 1))
    fields.end()
    indexes = [register.index for register in reference.registers]
    if indexes != list(range(LAST_RTMR + 1)):
        raise FormatError(f"{fields.where}: RTMRs {indexes}; expected 0 to {LAST_RTMR}, each once")
    return reference


def read_launch(fields: Fields) -> TdxReference:
    """Read what ``write_launch`` writes, into a launch without registers.

    Raises:
        FormatError, LimitError: as ``read_all``.
    """
    mrtd = fields.fields("mrtd")
    machine = fields.optional_text("machine", max_length=model.MAX_NAME)
    if machine is not None and model.NAME.fullmatch(machine) is None:
        raise FormatError(f"{fields.where}: machine is {machine[:40]!r}; expected a name")
    hob = None if fields.raw("td_hob") is None else fields.hex("td_hob", size=HashAlgorithm.SHA384.size)
    reference = TdxReference(
        platform=fields.text("platform", max_length=model.MAX_NAME, pattern=model.NAME),
        firmware=read_firmware(fields),
        boot=choice(BootPath, fields.raw("boot"), f"{fields.where}: boot"),
        vmm=choice(Vmm, fields.raw("vmm"), f"{fields.where}: vmm"),
        machine=machine,
        memory_mib=fields.integer("memory_mib", minimum=1),
        vcpus=fields.integer("vcpus", minimum=1),
        gpus=read_gpus(fields),
        mrtd={
            order: Digest(HashAlgorithm.SHA384, mrtd.hex(order.value, size=HashAlgorithm.SHA384.size))
            for order in PageOrder
        },
        td_hob=None if hob is None else Digest(HashAlgorithm.SHA384, hob),
        registers=(),
    )
    mrtd.end()
    name = fields.text("name", max_length=1024)
    if name != reference.name:
        raise FormatError(
            f"{fields.where}: name is {name[:120]!r}; its own fields make it {reference.name!r}"
        )
    return reference
