"""goldsmith predict snp; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.reading import hash_file, parse_file, read_limited
from builder.errors import BuilderError, UsageError
from measurements.errors import MeasurementError
from measurements.snp import cpu, features, legacy, vmsa
from measurements.snp.hashes import KernelHashes
from measurements.snp.image import END_OF_FIRMWARE, MAX_IMAGE_SIZE, LaunchImage, load
from measurements.snp.launch import MAX_VCPUS, Launch, LaunchDigests
from measurements.snp.pages import PAGE_SIZE
from measurements.snp.vmsa import Vmm

if TYPE_CHECKING:  # what only --as-profile needs is imported there
    from measurements.profile import PlatformProfile

_MAX_UKI_SIZE = 1 << 30
_EXCLUSIVE = (
    ("kernel", "uki"),
    ("uki", "initrd"),
    ("uki", "append"),
    ("vcpu_type", "vcpu_sig"),
    ("vars", "vars_size"),
)
_DEPENDENT = (("kernel", "initrd"), ("kernel", "append"), ("svsm", "vars"), ("svsm", "vars_size"))


def main(arguments: list[str]) -> int:
    """Predict the launch digest of an SEV-SNP, SEV-ES or SEV guest."""
    given = _parser().parse_args(arguments)
    _check(given)
    if given.as_profile is not None:
        from builder.cli.profiles import profile_name, tell_profile  # no other launch needs it

        tell_profile(_profile(given, profile_name(given.as_profile)))
        return 0
    result = _sev_snp(given) if given.mode == "snp" else _legacy(given)
    if given.json:
        console.emit_json(result)
        return 0
    if given.explain:
        _print_measured(result)
    console.out(result["launch_digest"])
    return 0


def _parser() -> Parser:
    parser = Parser("predict snp", "Predict the launch digest of an SEV-SNP, SEV-ES or SEV guest.")
    add = parser.add_argument
    add("--firmware", metavar="FILE", type=Path, required=True, help="OVMF.amdsev.fd, OVMF.fd, …")
    add("--mode", choices=["snp", "seves", "sev"], default="snp", help="kind of guest (default: snp)")
    add("--vmm", type=str.lower, choices=[str(vmm) for vmm in Vmm], default="qemu", help="default: qemu")
    add("--vcpus", metavar="N", type=_vcpus, help="number of virtual CPUs")
    add("--vcpu-type", metavar="MODEL", help="model of QEMU's -cpu, as EPYC-Milan")
    add("--vcpu-sig", metavar="HEX", type=_hexadecimal, help="or its signature, CPUID Fn0000_0001_EAX")
    add("--kernel", metavar="FILE", type=Path, help="-kernel, with kernel-hashes=on")
    add("--initrd", metavar="FILE", type=Path, help="-initrd")
    add("--append", metavar="TEXT", help="-append")
    add("--uki", metavar="FILE", type=Path, help="-kernel with a UKI, which brings initrd and command line")
    add(
        "--guest-features",
        metavar="HEX",
        type=_hexadecimal,
        help=f"SEV_FEATURES (default: 0x{features.DEFAULT:x})",
    )
    add("--svsm", metavar="FILE", type=Path, help="coconut-svsm image that QEMU loads below the firmware")
    add("--vars", metavar="FILE", type=Path, help="variable store between SVSM and firmware")
    add("--vars-size", metavar="BYTES", type=int, help="or its size")
    add("--vmsa-gpa", metavar="HEX", type=_hexadecimal, help=f"default: 0x{vmsa.VMSA_ADDRESS:x}")
    add("--as-profile", metavar="NAME", help="print a platform profile of the launch, for any image")
    add("--explain", action="store_true", help="print every page, and the digest after it")
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _check(given: argparse.Namespace) -> None:
    for left, right in _EXCLUSIVE:
        if _given(given, left) and _given(given, right):
            raise UsageError(f"{_option(left)} and {_option(right)} exclude each other")
    for needed, dependent in _DEPENDENT:
        if _given(given, dependent) and not _given(given, needed):
            raise UsageError(f"{_option(dependent)} goes with {_option(needed)}")
    if given.svsm is not None:
        for name in ("kernel", "uki", "guest_features", "as_profile"):
            if _given(given, name):
                raise UsageError(f"{_option(name)} and --svsm exclude each other")
        if not _given(given, "vars") and not _given(given, "vars_size"):
            raise UsageError(
                "the place of an SVSM depends on the variable store above it",
                hint="--vars FILE, or --vars-size BYTES (0: none)",
            )
    if given.mode != "snp":
        for name in ("svsm", "guest_features", "vmsa_gpa", "as_profile"):
            if _given(given, name):
                raise UsageError(f"{_option(name)} is for --mode snp, and this is --mode {given.mode}")
    if given.mode != "sev":
        if given.vcpus is None:
            raise UsageError("every vCPU is measured", hint="--vcpus N")
        if vmsa.needs_signature(Vmm(given.vmm)) and _signature(given) is None:
            raise UsageError("QEMU measures the CPU's signature", hint="--vcpu-type MODEL, or --vcpu-sig HEX")


def _sev_snp(given: argparse.Namespace) -> dict[str, Any]:
    firmware = _load(given.firmware)
    svsm = None
    if given.svsm is not None:
        end = firmware.address - _vars_size(given)
        svsm = parse_file(given.svsm, MAX_IMAGE_SIZE, lambda data: load(data, end=end, what="SVSM"))
    launch = _launch(given)
    try:
        digests = LaunchDigests(firmware, svsm)
        digest, pages = digests.digest(launch), digests.pages(launch)
    except MeasurementError as error:
        raise BuilderError(f"{given.firmware}: {error}") from error
    result = _result(given, firmware, digest, pages) | {
        "guest_features": {"value": f"0x{launch.features:x}", "names": list(features.names(launch.features))},
        "kernel_hashes": _kernel_json(launch.kernel),
        "svsm": None if svsm is None else _image_json(svsm),
    }
    if given.explain:
        result["measured"] = [page.to_json() for page in digests.walk(launch)]
    return result


def _launch(given: argparse.Namespace) -> Launch:
    return Launch(
        vmm=Vmm(given.vmm),
        vcpus=given.vcpus,
        signature=_signature(given),
        features=features.DEFAULT if given.guest_features is None else given.guest_features,
        kernel=_kernel(given),
        vmsa_address=vmsa.VMSA_ADDRESS if given.vmsa_gpa is None else given.vmsa_gpa,
    )


def _profile(given: argparse.Namespace, name: str) -> PlatformProfile:
    from measurements.events import DEFAULT_BANKS
    from measurements.golden import sev_snp_reference
    from measurements.prediction import BootPath, FirmwareIdentity
    from measurements.profile import PlatformProfile, cut_sev_snp

    firmware, launch = _load(given.firmware), _launch(given)
    unnamed = None if launch.signature is None else f"cpu-{launch.signature:08x}"
    try:
        reference = sev_snp_reference(
            LaunchDigests(firmware),
            launch,
            platform=f"{launch.vmm}-snp",
            firmware=FirmwareIdentity.of(given.firmware.stem.lower(), firmware.data),
            boot=BootPath.DISK if launch.kernel is None else BootPath.DIRECT,
            cpu=given.vcpu_type or unnamed,
        )
        template = cut_sev_snp(reference, launch.kernel)
        return PlatformProfile(name=name, banks=DEFAULT_BANKS, sev_snp=(template,))
    except MeasurementError as error:
        raise BuilderError(f"{given.firmware}: {error}") from error


def _legacy(given: argparse.Namespace) -> dict[str, Any]:
    firmware, kernel, state = _load(given.firmware), _kernel(given), None
    if given.mode == "seves":
        state = legacy.EncryptedState(vmm=Vmm(given.vmm), vcpus=given.vcpus, signature=_signature(given))
    try:
        parts = tuple(legacy.walk(firmware, kernel=kernel, state=state))
    except MeasurementError as error:
        raise BuilderError(f"{given.firmware}: {error}") from error
    # The hash table is part of a page that is not measured as a whole.
    pages = sum(part.size // PAGE_SIZE for part in parts)
    result = _result(given, firmware, parts[-1].digest, pages) | {"kernel_hashes": _kernel_json(kernel)}
    if given.explain:
        result["measured"] = [
            {"cause": part.cause, "size": part.size, "digest": part.digest.hex()} for part in parts
        ]
    return result


def _result(given: argparse.Namespace, firmware: LaunchImage, digest: bytes, pages: int) -> dict[str, Any]:
    signature = None if given.mode == "sev" else _signature(given)
    return {
        "launch_digest": digest.hex(),
        "pages": pages,
        "mode": given.mode,
        "vmm": given.vmm,
        "vcpus": None if given.mode == "sev" else given.vcpus,
        "vcpu_signature": None if signature is None else f"0x{signature:08x}",
        "firmware": _image_json(firmware),
    }


def _image_json(image: LaunchImage) -> dict[str, Any]:
    return {
        "sha256": hashlib.sha256(image.data).hexdigest(),
        "sha384": hashlib.sha384(image.data).hexdigest(),
        "size": len(image.data),
        "gpa": f"0x{image.address:x}",
    }


def _kernel_json(kernel: KernelHashes | None) -> dict[str, str] | None:
    if kernel is None:
        return None
    return {"kernel": kernel.kernel.hex(), "initrd": kernel.initrd.hex(), "cmdline": kernel.cmdline.hex()}


def _load(path: Path) -> LaunchImage:
    return parse_file(path, MAX_IMAGE_SIZE, load)


def _kernel(given: argparse.Namespace) -> KernelHashes | None:
    if given.uki is not None:
        from measurements.formats import uki  # no other launch needs it

        data = read_limited(given.uki, _MAX_UKI_SIZE)
        try:
            image = uki.parse(data)
        except MeasurementError as error:
            raise BuilderError(f"{given.uki}: {error}") from error
        if image.kind is not uki.ImageKind.UKI:
            raise UsageError(f"{given.uki} is no UKI", hint=f"--kernel {given.uki}")
        return KernelHashes.of(data)
    if given.kernel is None:
        return None
    return KernelHashes.of_digests(
        hash_file(given.kernel),
        initrd=None if given.initrd is None else hash_file(given.initrd),
        cmdline=given.append or "",
    )


def _signature(given: argparse.Namespace) -> int | None:
    if given.vcpu_type is None:
        return None if given.vcpu_sig is None else int(given.vcpu_sig)
    if given.vcpu_type not in cpu.MODELS:
        raise UsageError(
            f"--vcpu-type {given.vcpu_type}: not known; known are {', '.join(cpu.MODELS)}",
            hint="--vcpu-sig HEX, CPUID Fn0000_0001_EAX of that model",
        )
    return cpu.MODELS[given.vcpu_type]


def _vars_size(given: argparse.Namespace) -> int:
    size: int = given.vars_size
    if given.vars is not None:
        size = len(read_limited(given.vars, MAX_IMAGE_SIZE))
    if size % PAGE_SIZE or not 0 <= size < END_OF_FIRMWARE:
        raise UsageError(f"a variable store of {size} bytes; expected a multiple of {PAGE_SIZE}")
    return size


def _given(given: argparse.Namespace, name: str) -> bool:
    return getattr(given, name) is not None


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _hexadecimal(text: str) -> int:
    value = int(text, 16)
    if not 0 <= value < 1 << 64:
        raise ValueError
    return value


def _vcpus(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_VCPUS:
        raise argparse.ArgumentTypeError(f"{value}: expected 1 to {MAX_VCPUS}")
    return value


_hexadecimal.__name__ = "hexadecimal number"


def _print_measured(result: dict[str, Any]) -> None:
    measured: list[dict[str, Any]] = result["measured"]
    console.table("", list(measured[0]), [[str(value) for value in row.values()] for row in measured])
    console.out("")
