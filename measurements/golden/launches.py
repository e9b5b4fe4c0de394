"""The launches of two golden documents, side by side: TPM launch shapes, SEV-SNP launches, trust domains.

A launch whose name changed because an input of it did (vCPUs, memory, CPU model, GPUs, …) is compared with its
predecessor, so that what that input moved is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from measurements.events import Digest
from measurements.golden.differences import Difference, register_differences
from measurements.golden.model import GoldenDocument
from measurements.golden.sev_snp import SevSnpReference, Step
from measurements.golden.tdx import TdxReference
from measurements.prediction import LaunchShape, Prediction
from measurements.tdx.mrtd import PageOrder

#: A launch with more inputs changed than this is another launch, and not a changed one.
MAX_CHANGED_INPUTS: Final = 2

_L = TypeVar("_L")
_Inputs = Mapping[str, str | None]


def launch_differences(old: GoldenDocument, new: GoldenDocument) -> Iterator[Difference]:
    """Yield what differs in launches: inputs, then registers with the guilty events."""
    yield from _kind(
        {each.shape.name: each for each in old.predictions},
        {each.shape.name: each for each in new.predictions},
        lambda each: _shape_inputs(each.shape),
        _prediction,
    )
    yield from _kind(
        {each.name: each for each in old.sev_snp},
        {each.name: each for each in new.sev_snp},
        _sev_snp_inputs,
        _sev_snp,
    )
    yield from _kind(
        {each.name: each for each in old.tdx},
        {each.name: each for each in new.tdx},
        _tdx_inputs,
        _tdx,
    )


def _kind(
    before: Mapping[str, _L],
    after: Mapping[str, _L],
    inputs: Callable[[_L], _Inputs],
    values: Callable[[str, _L, _L], Iterator[Difference]],
) -> Iterator[Difference]:
    renamed = _renamed(before, after, inputs)
    for name in dict.fromkeys([*before, *after]):
        if name in renamed.values():
            continue  # told under its new name
        first, second = before.get(renamed.get(name, name)), after.get(name)
        if first is None or second is None:
            yield Difference(
                where=name,
                what="launch shape",
                cause=None,
                old=None if first is None else "present",
                new=None if second is None else "present",
                shape=name,
            )
        elif first != second:
            was, is_now = inputs(first), inputs(second)
            for what in was:
                if was[what] != is_now[what]:
                    yield Difference(
                        where=name, what=what, cause=None, old=was[what], new=is_now[what], shape=name
                    )
            for difference in values(name, first, second):
                yield replace(difference, shape=name)
    if list(before) != list(after) and set(before) == set(after):
        yield Difference(where="document", what="order of launch shapes", cause=None, old=" ".join(before),
                         new=" ".join(after))  # fmt: skip


def _renamed(
    before: Mapping[str, _L], after: Mapping[str, _L], inputs: Callable[[_L], _Inputs]
) -> dict[str, str]:
    """Return new name -> old name of launches whose inputs changed; the nearest first, each once."""
    gone = [name for name in before if name not in after]
    come = [name for name in after if name not in before]
    nearness = sorted(
        (_distance(inputs(before[first]), inputs(after[second])), at, gone.index(first), second, first)
        for at, second in enumerate(come)
        for first in gone
    )
    found: dict[str, str] = {}
    for distance, _, _, second, first in nearness:
        if distance <= MAX_CHANGED_INPUTS and second not in found and first not in found.values():
            found[second] = first
    return found


def _distance(old: _Inputs, new: _Inputs) -> int:
    # A firmware's name, its digests, and a CPU's model and signature are one input each.
    changed = {what.partition(" ")[0].lower() for what in old if old[what] != new[what]}
    return len(changed)


def _shape_inputs(shape: LaunchShape) -> _Inputs:
    return {
        "platform": shape.platform,
        "firmware": shape.firmware.name,
        "firmware sha256": shape.firmware.sha256,
        "firmware sha384": shape.firmware.sha384,
        "boot": shape.boot.value,
        "machine": shape.machine,
        "memory_mib": str(shape.memory_mib),
        "vcpus": str(shape.vcpus),
        "secure_boot": str(shape.secure_boot).lower(),
        "gpus": str(shape.gpus),
    }


def _sev_snp_inputs(launch: SevSnpReference) -> _Inputs:
    return {
        "platform": launch.platform,
        "firmware": launch.firmware.name,
        "firmware sha384": launch.firmware.sha384,
        "boot": launch.boot.value,
        "vmm": launch.vmm.value,
        "cpu": launch.cpu,
        "CPU signature": None if launch.signature is None else f"0x{launch.signature:08x}",
        "vcpus": str(launch.vcpus),
        "guest_features": f"0x{launch.features:x}",
    }


def _tdx_inputs(launch: TdxReference) -> _Inputs:
    return {
        "platform": launch.platform,
        "firmware": launch.firmware.name,
        "firmware sha384": launch.firmware.sha384,
        "boot": launch.boot.value,
        "vmm": launch.vmm.value,
        "machine": launch.machine,
        "memory_mib": str(launch.memory_mib),
        "vcpus": str(launch.vcpus),
        "gpus": str(launch.gpus),
    }


def _prediction(name: str, old: Prediction, new: Prediction) -> Iterator[Difference]:
    before = {register.index: register for register in old.registers}
    after = {register.index: register for register in new.registers}
    for index in sorted({*before, *after}):
        first_register, second_register = before.get(index), after.get(index)
        where = f"{name}: PCR {index}"
        if first_register is None or second_register is None:
            yield Difference(
                where=where,
                what="register",
                cause=None,
                old=None if first_register is None else "present",
                new=None if second_register is None else "present",
                register=f"PCR {index}",
            )
        elif first_register != second_register:
            for difference in register_differences(where, first_register, second_register):
                yield replace(difference, register=f"PCR {index}")


def _sev_snp(name: str, old: SevSnpReference, new: SevSnpReference) -> Iterator[Difference]:
    where, register = f"{name}: launch digest", "launch digest"
    if (old.firmware, old.loaded) != (new.firmware, new.loaded):
        yield Difference(where=where, what="digest after the firmware", cause="firmware", register=register,
                         old=old.loaded.hex(), new=new.loaded.hex())  # fmt: skip
    for position in range(max(len(old.steps), len(new.steps))):
        first = old.steps[position] if position < len(old.steps) else None
        second = new.steps[position] if position < len(new.steps) else None
        if first != second:
            known = second or first
            assert known is not None
            yield Difference(where=where, what=f"pages at 0x{known.address:x}", cause=known.cause, register=register,
                             old=_step(first), new=_step(second))  # fmt: skip


def _step(step: Step | None) -> str | None:
    if step is None:
        return None
    contents = "" if step.contents is None else f" {step.contents.hex()}"
    return f"{step.times} times {step.pages} {step.type.name.lower()} at 0x{step.address:x}{contents}"


def _tdx(name: str, old: TdxReference, new: TdxReference) -> Iterator[Difference]:
    for order in PageOrder:
        if old.mrtd[order] != new.mrtd[order]:
            yield Difference(where=f"{name}: MRTD", what=order.value, cause="firmware", register="MRTD",
                             old=old.mrtd[order].hex(), new=new.mrtd[order].hex())  # fmt: skip
    if old.td_hob != new.td_hob:
        yield Difference(where=name, what="TD HOB", cause=None, old=_hex(old.td_hob), new=_hex(new.td_hob))
    for first, second in zip(old.registers, new.registers, strict=True):
        if first != second:
            register = f"RTMR{first.index}"
            for difference in register_differences(f"{name}: {register}", first, second):
                yield replace(difference, register=register)


def _hex(digest: Digest | None) -> str | None:
    return None if digest is None else digest.hex()
