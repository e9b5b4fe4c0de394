"""The whole flow, from a recipe and its lock to a release folder. Only this module knows the order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.artifacts import Lock
from builder.atomic import temporary_folder
from builder.audit import audit_release
from builder.audit.declare import declared_by
from builder.audit.report import FILE_NAME as AUDIT
from builder.audit.report import dump_report
from builder.audit.run import check_report
from builder.compiled import compiled_modules
from builder.confidential import sev_snp_references, tdx_references
from builder.disks import read_partition_table
from builder.emulators import emulators
from builder.image.cpio import compress_initrd, write_cpio
from builder.image.disk import assemble_disk, convert_qcow2, identify
from builder.image.erofs import build_erofs
from builder.image.esp import build_esp
from builder.image.identity import root_identity
from builder.image.uki import STUB, build_uki
from builder.image.verity import format_verity
from builder.launches import launches, predict_launch
from builder.lock import check_lock
from builder.lockfile import dump_lock
from builder.modulesigning import (
    CERTIFICATE,
    ModuleSigning,
    certificate_pem,
    module_signatures,
    signed,
    write_modules,
)
from builder.pins import check_python
from builder.progress import SILENT, Reporter
from builder.recipe.gpu import SUFFIX as RIM_SUFFIX
from builder.recipe.merged import Recipe
from builder.release.golden import check_committed, check_signed, golden_document, sign_release
from builder.release.manifest import dump, manifest_of, output_of
from builder.release.parts import disk_parts, uki_parts
from builder.release.publish import publish
from builder.release.sbom.facts import PackageFacts, package_facts
from builder.release.sbom.inventory import take_inventory
from builder.release.sbom.write import write_sboms
from builder.rims import check_rims
from builder.rootfs import (
    CompiledModule,
    KernelPackage,
    compose,
    kernel_image,
    package_origin,
    summarise,
    vermagic,
)
from builder.store import Store
from builder.tables import trust_domain_tables
from builder.toolbox import firmware, open_members, single_file_firmware, unpack_toolbox
from builder.tools import Tools
from builder.tree import Tree
from measurements.golden import GoldenDocument, to_pretty
from measurements.image_layer import predict_image
from measurements.keys import SigningKey

_INITRD_KIND = "initrd-zstd-1"
#: The member of the toolbox that ships the UKI's stub.
_STUB_PACKAGE = "systemd-boot-efi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A finished release folder.

    Attributes:
        folder: where it is.
        document: its golden document.
        notes: what the composition found worth telling.
        warnings: what the image lacks to serve its purpose, such as reference values of its GPU.
        throwaway_key: nobody holds the key that signed it.
    """

    folder: Path
    document: GoldenDocument
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    throwaway_key: bool


def build(
    recipe: Recipe,
    lock: Lock,
    *,
    store: Store,
    out: Path,
    keys: Sequence[SigningKey] = (),
    signing: ModuleSigning | None = None,
    qcow2: bool = False,
    accept: bool = False,
    jobs: int | None = None,
    reporter: Reporter = SILENT,
) -> Release:
    """Build a release; every archive of ``lock`` is already in ``store``.

    Args:
        recipe: what to build.
        lock: its inputs.
        store: where they are.
        out: the release folder; replaced as a whole, and only when everything succeeded.
        keys: who signs; none means a throw-away key.
        signing: who signs the modules that are compiled; None leaves them as they are. The committed values are
            about the unsigned build, so that is made too, and held against them.
        qcow2: also write disk.qcow2.
        accept: write the values to the recipe's golden.json instead of comparing with it.
        jobs: compilers at a time, where kernel modules are compiled; default: one a processor.
        reporter: hears of every phase.

    Raises:
        LockError: the lock is stale, or the Python packages that write bytes have other versions.
        RimError: reference values of a GPU are not signed, or about something else.
        AuditError: the image breaks a rule of the hardening profile.
        GoldenMismatchError: the values differ from the committed ones.
        ImageError: a module's signature does not hold, is missing or left over.
        BuilderError: anything else that stands in the way.
    """
    check_lock(recipe, lock)
    check_python(lock)
    certificate = None if signing is None else certificate_pem(signing)
    declared = declared_by(recipe, module_certificate=certificate)
    warnings = check_rims(recipe)
    with reporter.phase("toolbox"):
        tools = unpack_toolbox(lock, store)
        builds = firmware(recipe.firmware, lock, store)
        single = single_file_firmware(recipe.firmware, lock, store)
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(f".{out.name}.", parent=out.parent) as work:
        folder = work / "release"
        folder.mkdir()
        with reporter.phase("compose"):
            kernel, facts = _kernel(recipe, lock, store, reporter, jobs=jobs, signing=signing)
            trees, notes, more = _compose(recipe, lock, kernel, store=store, tools=tools, work=work)
        if signing is not None:
            with reporter.phase("unsigned build"):
                unsigned = build(recipe, lock, store=store, out=work / "unsigned", accept=accept).document
        with reporter.phase("root file system"):
            identity = root_identity(recipe.name, recipe.version)
            erofs = build_erofs(trees["root"], uuid=identity.erofs_uuid, tools=tools, workdir=work)
        with reporter.phase("verity"):
            verity = format_verity(erofs, identity=identity, tools=tools, workdir=work)
        with reporter.phase("initrd"):
            initrd = _initrd(trees["initrd"], lock, store)
        with reporter.phase("unified kernel image"):
            linux = kernel_image(kernel.entries)
            uki = build_uki(
                linux.image,
                initrd,
                command_line=" ".join((*recipe.command_line, f"roothash={verity.root_hash}")),
                os_release=bytes(trees["root"]["/etc/os-release"].content).decode(),
                uname=linux.release,
                root_hash=verity.root_hash,
                tools=tools,
                workdir=folder,
            )
            image = uki.read_bytes()
        with reporter.phase("disk"):
            ids = identify(verity, uki)
            esp = build_esp(uki, volume_id=ids.fat_volume, tools=tools, workdir=work)
            disk = assemble_disk(esp, verity, identity=ids, output=folder / "disk.raw")
            published = [uki, disk]
            if qcow2:
                published.append(convert_qcow2(disk, output=folder / "disk.qcow2", tools=tools))
            table = read_partition_table(disk)
            published += write_modules(kernel.compiled, folder)
            if certificate is not None:
                published.append(folder / CERTIFICATE)
                published[-1].write_bytes(certificate)
            for name, manifest in recipe.rims.items():
                published.append(folder / f"{name}{RIM_SUFFIX}")
                published[-1].write_bytes(manifest)
            (folder / "lock.json").write_bytes(dump_lock(lock))
            outputs = [output_of(path) for path in (*published, folder / "lock.json")]
        with reporter.phase("audit"):
            report = audit_release(
                disk=disk, uki=uki, declared=declared, lock=lock, store=store, kernel=kernel.entries
            )
            check_report(report)
            (folder / AUDIT).write_bytes(dump_report(report))
            outputs.append(output_of(folder / AUDIT))
        with reporter.phase("software bill of materials"):
            (stub,) = (archive for archive in lock.members("toolbox") if archive.name == _STUB_PACKAGE)
            inventory = take_inventory(
                recipe,
                lock,
                trees=trees,
                uki_inputs={
                    f"/boot/vmlinuz-{linux.release}": (kernel.archive, linux.image),
                    f"/{STUB}": (stub, tools.path(STUB).read_bytes()),
                },
                facts={kernel.archive.sha256: facts} | more,
                root_hash=verity.root_hash,
                uki=outputs[0],
                disk=outputs[1],
                signatures=module_signatures(kernel.compiled, signing),
            )
            outputs += [output_of(path) for path in write_sboms(inventory, folder)]
        with reporter.phase("predict"):
            predictions = [
                predict_launch(launch, uki=image, disk=table, tools=tools, store=store)
                for launch in launches(recipe.platforms, builds)
            ]
            snp = tuple(sev_snp_references(recipe.sev_snp, single, uki=image))
            tables = trust_domain_tables(emulators(lock, tools, store), store)
            tdx = tuple(tdx_references(recipe.tdx, single, uki=image, disk=table, tables=tables))
            layer = predict_image(image, disk=table)
        with reporter.phase("sign"):
            document = golden_document(
                recipe,
                lock,
                outputs=outputs,
                predictions=predictions,
                sev_snp=snp,
                tdx=tdx,
                image_layer=layer,
            )
            if signing is None:
                check_committed(document, recipe.golden_path, scratch=lock.scratch, accept=accept)
            else:
                check_signed(unsigned, document)
            (folder / "golden.json").write_bytes(to_pretty(document))
            sign_release(document, keys, folder)
            contents = manifest_of(
                recipe,
                lock,
                outputs=[*outputs, output_of(folder / "golden.json")],
                parts=[*uki_parts(image, uki.name), *disk_parts(disk, table, image)],
                contents={name: summarise(tree) for name, tree in trees.items()},
                toolbox=tools.versions,
                warnings=warnings,
            )
            (folder / "manifest.json").write_bytes(dump(contents))
        publish(folder, out)
    return Release(folder=out, document=document, notes=notes, warnings=warnings, throwaway_key=not keys)


def _kernel(
    recipe: Recipe,
    lock: Lock,
    store: Store,
    reporter: Reporter,
    *,
    jobs: int | None,
    signing: ModuleSigning | None,
) -> tuple[KernelPackage, PackageFacts]:
    """Open the kernel's package, compile what it lacks, and sign that."""
    (archive,) = lock.members("kernel")
    (package,) = open_members((archive,), store, recipe=lock.recipe)
    entries = tuple(package.entries())
    modules = []
    if recipe.module_sources:
        compiled = compiled_modules(
            recipe,
            lock,
            release=kernel_image(entries).release,
            vermagic=vermagic(entries),
            store=store,
            reporter=reporter,
            jobs=jobs,
        )
        for name, found in compiled.items():
            origin = package_origin(lock.members(f"modules/{name}")[0])
            modules += [
                CompiledModule(name=module.name, content=module.content, origin=origin) for module in found
            ]
    if signing is not None:
        contents = signed({module.name: module.content for module in modules}, signing)
        modules = [replace(module, content=contents[module.name]) for module in modules]
    kernel = KernelPackage(archive=archive, entries=entries, compiled=tuple(modules))
    return kernel, package_facts(archive, package.control, entries)


def _compose(
    recipe: Recipe, lock: Lock, kernel: KernelPackage, *, store: Store, tools: Tools, work: Path
) -> tuple[dict[str, Tree], tuple[str, ...], dict[str, PackageFacts]]:
    trees, notes, facts = {}, [], {}
    for name in ("root", "initrd"):
        archives = lock.members(name)
        packages = []
        opened = open_members(archives, store, recipe=recipe.name)
        for archive, package in zip(archives, opened, strict=True):
            entries = tuple(package.entries())
            packages.append((archive, entries))
            facts[archive.sha256] = package_facts(archive, package.control, entries)
        composition = compose(
            recipe.layer(name), packages, recipe.files[name], kernel, tools=tools, workdir=work
        )
        trees[name] = composition.tree
        notes += [f"{name}: {note}" for note in composition.notes]
    return trees, tuple(notes), facts


def _initrd(tree: Tree, lock: Lock, store: Store) -> bytes:
    """Compress the initrd, or take it from the store: it changes less often than the root does."""
    archive = write_cpio(tree, source_date_epoch=lock.source_date_epoch)
    key = hashlib.sha256(f"zstandard {lock.python['zstandard'].version}\n".encode() + archive).hexdigest()

    def make(put: Callable[[bytes], object]) -> None:
        put(compress_initrd(archive))

    return bytes(store.derived_bytes(_INITRD_KIND, key, make))
