"""From a finished release to one that is signed for Secure Boot: the last step, and the only one that needs a key.

Nothing of the image changes but the UKI's signature, so the values without Secure Boot stay what they were; those with
Secure Boot come beside them. Whoever has the published signature in place of the key gets the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from builder.artifacts import Firmware, Lock
from builder.atomic import temporary_folder
from builder.audit import audit_release
from builder.audit.report import FILE_NAME as AUDIT
from builder.audit.report import dump_report, read_declared
from builder.audit.rules.modules import SIGNATURES
from builder.audit.run import check_report
from builder.confidential import sev_snp_references, tdx_references
from builder.disks import read_partition_table
from builder.emulators import emulators
from builder.errors import ImageError, UntrustedError, UsageError
from builder.image.disk import convert_qcow2, replace_partition
from builder.image.esp import build_esp
from builder.image.identity import disk_identity
from builder.image.secureboot.authenticode import attach_signature, sign_pe
from builder.image.secureboot.enrolment import PublicEnrolment, check_allowed, read_enrolment
from builder.image.secureboot.keyset import published_files
from builder.image.secureboot.signer import Signer, load_certificate
from builder.image.secureboot.store import enrol
from builder.launches import enrolled_firmware, launches, predict_launch, store_name
from builder.progress import SILENT, Reporter
from builder.release.golden import CONVERTED_DISK, GOLDEN, sign_release
from builder.release.manifest import Manifest, changed_parts, dump, output_of
from builder.release.parts import disk_parts, uki_parts
from builder.release.publish import publish
from builder.release.sbom.rebind import IDENTITIES, rebind
from builder.store import Store
from builder.tables import trust_domain_tables
from builder.toolbox import firmware, single_file_firmware, unpack_toolbox
from builder.tools import Tools
from measurements import golden
from measurements.events import Stability
from measurements.formats import gpt, uki
from measurements.golden import GoldenDocument, SevSnpReference, TdxReference
from measurements.image_layer import ImageLayer, predict_image
from measurements.keys import SigningKey
from measurements.platforms.firmware import FirmwareProfile
from measurements.prediction import Prediction

UKI, DISK, SIGNATURE = "uki.efi", "disk.raw", "uki.p7s"
_ESP: Final = "esp"
#: How many differences an error lists.
_LISTED = 12
_ROOT_HASH = re.compile(rb"(?:^|\s)roothash=([0-9a-f]{64})(?:\s|\0|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedRelease:
    """A release that is signed for Secure Boot.

    Attributes:
        folder: where it is.
        document: its golden document.
        sealed: names of the launch shapes that came with the signature.
        open_registers: registers of those that are pinned without Secure Boot and not with it, each with the reason.
        throwaway_key: nobody holds the key that signed the golden document.
    """

    folder: Path
    document: GoldenDocument
    sealed: tuple[str, ...]
    open_registers: tuple[str, ...]
    throwaway_key: bool


def seal(
    folder: Path,
    manifest: Manifest,
    lock: Lock,
    *,
    signing: Signer | bytes,
    updates: Mapping[str, bytes],
    out: Path,
    store: Store,
    keys: Sequence[SigningKey] = (),
    profiles: tuple[FirmwareProfile, ...] = (),
    reporter: Reporter = SILENT,
) -> SealedRelease:
    """Seal a release; its own folder stays as it is.

    Args:
        folder: the unsigned release.
        manifest: its manifest.
        lock: its lock; the archives of toolbox, firmware, root and kernel are in ``store``.
        signing: who signs the UKI, or its published signature (``uki.p7s``).
        updates: the signed updates that enrol the key set: "PK", "KEK", "db", "dbx" -> contents of ``NAME.auth``.
        out: the sealed release; replaced as a whole, and only when everything succeeded.
        store: where archives and unpacked tools are.
        keys: who signs the golden document; none means a throw-away key.
        profiles: calibrated firmware profiles, for machines that the built-in ones do not know.
        reporter: hears of every phase.

    Raises:
        UsageError: the release is sealed, declares no firmware that verifies, has unsigned modules, or would be
            overwritten.
        UntrustedError: its files are not what its own golden document says.
        ImageError: the signature is one of another image, or firmware or kernel with these keys would refuse it or
            its modules; or a step gave other values without Secure Boot than the release has.
        BuilderError: anything else that stands in the way.
    """
    if out.resolve() == folder.resolve():
        raise UsageError(f"{out} is the unsigned release, which others reproduce", hint="another --out DIR")
    with reporter.phase("check release"):
        document = _unsealed(folder, manifest)
        public = read_enrolment(updates)
        _check_modules(folder, manifest, public)
    with reporter.phase("toolbox"):
        tools = unpack_toolbox(lock, store)
        builds = firmware(manifest.firmware, lock, store)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{out.name}.", parent=out.parent) as work:
        target = work / "release"
        target.mkdir()
        with reporter.phase("sign"):
            unsigned = (folder / UKI).read_bytes()
            image, signature = _signed(unsigned, signing)
            check_allowed(image, public)
            (target / UKI).write_bytes(image)
            (target / SIGNATURE).write_bytes(signature)
        with reporter.phase("disk"):
            table = _write_disk(folder / DISK, unsigned, target, tools=tools, work=work)
            if CONVERTED_DISK in {output.name for output in manifest.outputs}:
                convert_qcow2(target / DISK, output=target / CONVERTED_DISK, tools=tools)
        with reporter.phase("enrolment"):
            _write_enrolment(public, manifest, builds, target)
        with reporter.phase("other files"):
            _carry_over(manifest, folder, target)
        if AUDIT in {output.name for output in manifest.outputs}:
            with reporter.phase("audit"):
                _audit(folder / AUDIT, target, lock, store)
        outputs = [output_of(path) for path in sorted(target.iterdir())]
        with reporter.phase("predict"):
            enrolled = enrolled_firmware(manifest.platforms, builds, target)
            usual = [
                predict_launch(launch, uki=image, disk=table, tools=tools, store=store)
                for launch in launches(manifest.platforms, builds)
            ]
            single = single_file_firmware(manifest.firmware, lock, store)
            # What -kernel starts is hashed as a whole file: with its signature it is another.
            snp = tuple(sev_snp_references(manifest.sev_snp, single, uki=image))
            tables = trust_domain_tables(emulators(lock, tools, store), store)
            tdx = tuple(tdx_references(manifest.tdx, single, uki=image, disk=table, tables=tables))
            _check_unchanged(document, usual, tdx)
            sealed = [
                predict_launch(launch, uki=image, disk=table, tools=tools, store=store, profiles=profiles)
                for launch in launches(manifest.platforms, enrolled, secure_boot=True)
            ]
        with reporter.phase("publish"):
            names = [golden.Output(name=each.name, size=each.size, sha256=each.sha256) for each in outputs]
            layer = predict_image(image, disk=table, variables=enrolled[0].variables.read_bytes())
            document = _document(document, [*usual, *sealed], names, sev_snp=snp, tdx=tdx, image_layer=layer)
            (target / GOLDEN).write_bytes(golden.to_pretty(document))
            sign_release(document, keys, target)
            outputs.append(output_of(target / GOLDEN))
            sealed_manifest = replace(
                manifest,
                outputs=tuple(sorted(outputs, key=lambda output: output.name)),
                parts=(*uki_parts(image, UKI), *disk_parts(target / DISK, table, image)),
            )
            (target / "manifest.json").write_bytes(dump(sealed_manifest))
        publish(target, out)
    return SealedRelease(
        folder=out,
        document=document,
        sealed=tuple(prediction.shape.name for prediction in sealed),
        open_registers=_open_registers(usual, sealed),
        throwaway_key=not keys,
    )


def _unsealed(folder: Path, manifest: Manifest) -> GoldenDocument:
    """Return the golden document of a release after holding every file against it."""
    names = {output.name for output in manifest.outputs}
    if SIGNATURE in names:
        raise UsageError(
            f"{folder} is sealed already: expected the unsigned release",
            hint=f"goldsmith build {manifest.name}",
        )
    if not any(platform.secure_boot for platform in manifest.platforms):
        raise UsageError(
            f"the release {manifest.name} declares no firmware that verifies what it starts",
            hint="platforms: secure_boot: [NAME] in the recipe, then build it",
        )
    if missing := {UKI, DISK, GOLDEN} - names:
        raise UsageError(f"{folder}: its manifest does not list {', '.join(sorted(missing))}")
    document = golden.parse((folder / GOLDEN).read_bytes())
    if changed := changed_parts(manifest, folder, document.outputs):
        raise UntrustedError(
            f"{folder} is not what its golden document says: {'; '.join(changed)}",
            hint=f"goldsmith build {manifest.name}",
        )
    return document


def _check_modules(folder: Path, manifest: Manifest, public: PublicEnrolment) -> None:
    """Make sure that the kernel, which takes certificates from db, will load every module.

    The audit, whose report is one of the release's files, has held each signature against the certificate there.
    """
    if AUDIT not in {output.name for output in manifest.outputs}:
        return
    declared = read_declared((folder / AUDIT).read_bytes())
    if SIGNATURES in declared.waivers:
        raise UsageError(
            f"the release {manifest.name} has modules that nobody signed, and under Secure Boot the kernel loads none "
            f"of them (its audit waives {SIGNATURES}: {declared.waivers[SIGNATURES]})",
            hint=f"goldsmith build {manifest.name} --module-keys KEYS, or --module-signatures FOLDER",
        )
    if not declared.module_certificate:
        return
    certificate = load_certificate(declared.module_certificate.encode())
    if certificate not in public.enrolment.allowed:
        raise ImageError(
            f"the modules are signed by {certificate.subject.rfc4514_string()}, serial number "
            f"{certificate.serial_number:x}, and db holds no such certificate: the kernel would load none of them",
            hint="sign them with the db key of this set, or enrol theirs too: goldsmith keys make --allow PEM",
        )


def _signed(unsigned: bytes, signing: Signer | bytes) -> tuple[bytes, bytes]:
    if isinstance(signing, bytes):
        return attach_signature(unsigned, signing), signing
    return sign_pe(unsigned, signing)


def _write_disk(disk: Path, unsigned: bytes, target: Path, *, tools: Tools, work: Path) -> gpt.Gpt:
    """Write the disk whose ESP holds the signed UKI; sizes and identifiers are those of the unsigned one."""
    found = _ROOT_HASH.search(uki.parse(unsigned).data(".cmdline"))
    if found is None:
        raise ImageError(f"the command line of {UKI} names no root hash: expected roothash=")
    identity = disk_identity(found[1].decode(), hashlib.sha256(unsigned).digest())
    esp = build_esp(
        target / UKI, volume_id=identity.fat_volume, tools=tools, workdir=work, unsigned_size=len(unsigned)
    )
    table = read_partition_table(disk)
    entry = next((each for each in table.partitions if each.name == _ESP), None)
    if entry is None:
        raise ImageError(f"{disk.name} has no partition {_ESP!r}")
    replace_partition(
        disk,
        esp,
        offset=entry.first_lba * table.sector_size,
        size=(entry.last_lba - entry.first_lba + 1) * table.sector_size,
        output=target / DISK,
    )
    return table


def _write_enrolment(
    public: PublicEnrolment, manifest: Manifest, builds: Iterable[Firmware], target: Path
) -> None:
    for file in published_files(public.enrolment, public.updates):
        (target / file.name).write_bytes(file.content)
    wanted = {name for platform in manifest.platforms for name in platform.secure_boot}
    for build in builds:
        if build.name in wanted:
            (target / store_name(build.name)).write_bytes(
                enrol(build.variables.read_bytes(), public.variables)
            )


def _carry_over(manifest: Manifest, folder: Path, target: Path) -> None:
    """Bring what the signature does not touch, and the bills of materials bound to the signed files."""
    digests = {
        output.sha256: output_of(target / output.name).sha256
        for output in manifest.outputs
        if output.name in (UKI, DISK)
    }
    for output in manifest.outputs:
        path = target / output.name
        if output.name in IDENTITIES:
            path.write_bytes(rebind(output.name, (folder / output.name).read_bytes(), digests))
        elif output.name not in (GOLDEN, AUDIT) and not path.exists():
            shutil.copyfile(folder / output.name, path)


def _audit(before: Path, target: Path, lock: Lock, store: Store) -> None:
    """Hold the signed bytes against what the unsigned ones were held against."""
    report = audit_release(
        disk=target / DISK,
        uki=target / UKI,
        declared=read_declared(before.read_bytes()),
        lock=lock,
        store=store,
    )
    check_report(report)
    (target / AUDIT).write_bytes(dump_report(report))


def _document(
    document: GoldenDocument,
    predictions: Iterable[Prediction],
    outputs: Iterable[golden.Output],
    *,
    sev_snp: Iterable[SevSnpReference],
    tdx: Iterable[TdxReference],
    image_layer: ImageLayer | None,
) -> GoldenDocument:
    return golden.document_from(
        image=document.image,
        source_date_epoch=document.source_date_epoch,
        validity=document.validity,
        inputs=document.inputs,
        outputs=outputs,
        calculator=document.calculator,
        predictions=predictions,
        sev_snp=sev_snp,
        tdx=tdx,
        image_layer=image_layer,
        gpu=document.gpu,
    )


def _check_unchanged(
    document: GoldenDocument, usual: Iterable[Prediction], tdx: Iterable[TdxReference]
) -> None:
    """Make sure that the signature moved no value but those of SEV-SNP, and that the release has none but these.

    Raises:
        ImageError: it did, or another version of goldsmith computed them; with what moved.
    """
    again = _document(
        document,
        usual,
        document.outputs,
        sev_snp=document.sev_snp,
        tdx=tdx,
        image_layer=document.image_layer,
    )
    if differences := golden.compare(document, again):
        raise ImageError(
            "the signed image gives other values without Secure Boot than the release has:\n"
            + "\n".join(f"  {difference}" for difference in differences[:_LISTED]),
            hint=f"was the release built by another version of goldsmith? goldsmith build {document.image.name}",
        )


def _open_registers(usual: Iterable[Prediction], sealed: Iterable[Prediction]) -> tuple[str, ...]:
    pinned = {
        register.index
        for prediction in usual
        for register in prediction.registers
        if register.stability is not Stability.NOT_PINNED
    }
    return tuple(
        f"{prediction.shape.name}: PCR {register.index}: {register.reason}"
        for prediction in sealed
        for register in prediction.registers
        if register.stability is Stability.NOT_PINNED and register.index in pinned
    )
