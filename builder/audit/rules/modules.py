"""Kernel modules: which ones are there, and who signed them (docs/hardening.md, "Kernel")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from builder.audit import modules
from builder.audit.model import Finding, Subject
from builder.audit.rules.registry import RuleSet
from builder.audit.units import config_files
from measurements.errors import FormatError, SignatureError

RULES = RuleSet("Kernel")
#: The rule about signatures; a build that signs its modules has no use for a waiver of it.
SIGNATURES: Final = "GS-MODULE-002"

#: Names of drivers for buses, devices and protocols that the operator's machine could offer begin so.
_LEGACY_PREFIXES = (
    "usb", "xhci", "ehci", "ohci", "uhci", "floppy", "firewire", "thunderbolt", "pcmcia", "parport",
    "gameport", "hid_", "bluetooth", "btusb", "snd", "drm", "vsock", "vmw_vsock", "hv_sock", "vhost", "nfs",
    "cifs", "9p", "ceph", "i2c_", "ntfs", "hfs", "acpi_", "mtd",
)  # fmt: skip
_LEGACY = frozenset(
    [
        "ppdev", "lp", "joydev", "evdev", "mousedev", "hid", "psmouse", "sermouse", "atkbd", "i8042",
        "serio_raw", "qxl", "vmwgfx", "cirrus", "bochs", "qemu_fw_cfg", "efivarfs", "efi_pstore",
        "pstore_blk", "ramoops", "binfmt_misc", "cdrom", "sr_mod", "isofs", "udf", "msdos", "vfat", "fat", "ufs", "jfs",
        "reiserfs", "cramfs", "ksmbd", "dccp", "sctp", "rds", "tipc", "can", "ax25", "netrom", "x25", "atm",
        "appletalk", "ipx", "n_hdlc", "nbd", "loop", "kvm", "kvm_intel", "kvm_amd", "msr", "cpuid",
        "configfs", "virtio_input", "virtio_gpu", "virtio_snd", "virtio_balloon", "virtiofs",
    ]
)  # fmt: skip


def _found(subject: Subject, tree: str) -> dict[str, str]:
    """Return name -> path of a tree's modules."""
    files = subject.image.trees[tree]
    return {
        modules.name_of(path): path for path, file in files.items() if file.is_file and modules.name_of(path)
    }


@RULES.rule(
    "GS-MODULE-001", "The modules on disk are the recipe's and what they need",
    "list the module in the recipe, or take it out",
)  # fmt: skip
def allowlist(subject: Subject) -> Iterator[Finding]:
    """Each tree's modules are those that its recipe lists (unless built in) and, recursively, what their
    `depends` and `softdep` name; modules.dep lists exactly these."""
    builtin = modules.builtin_names(subject.image.trees)
    for tree, files in subject.image.trees.items():
        found = _found(subject, tree)
        wanted, pending = set(), [name.replace("-", "_") for name in subject.declared.modules[tree]]
        while pending:
            name = pending.pop()
            if name in wanted or name in builtin:
                continue
            wanted.add(name)
            if name in found:
                info = modules.read_info(modules.unpack(files.get(found[name]), found[name]), found[name])
                pending += [other for other in info.needs if other in found or other not in builtin]
                pending += [other for other in info.soft if other in found]
        for name in sorted(found.keys() - wanted):
            yield Finding(
                place=f"{tree}:{found[name]}",
                expected="a module that the recipe lists",
                got=f"the module {name}",
            )
        for name in sorted(wanted - found.keys()):
            yield Finding(
                place=f"{tree}:/usr/lib/modules",
                expected=f"the module {name}",
                got="neither there nor built in",
            )
        listed = modules.listed_names(files)
        if listed != found.keys():
            yield Finding(
                place=f"{tree}:modules.dep", expected=", ".join(sorted(found)),
                got=", ".join(sorted(listed)) or "no module",
            )  # fmt: skip


@RULES.rule(
    SIGNATURES, "Each module is signed by the kernel's own key or by the release's",
    "take modules from the locked kernel package; sign those that the recipe compiles (build --module-keys)",
)  # fmt: skip
def signatures(subject: Subject) -> Iterator[Finding]:
    """Each module ends with a PKCS #7 signature over all of its bytes, which verifies with a certificate
    that is built into the UKI's kernel, or with the module certificate that the release declares."""
    try:
        kernel = modules.kernel_payload(subject.image.section(".linux"))
    except FormatError as error:
        yield Finding(
            place="uki.efi:.linux", expected="a kernel whose certificates can be read", got=str(error)
        )
        return
    try:
        own = modules.read_certificate(subject.declared.module_certificate)
    except FormatError as error:
        yield Finding(place="audit.json", expected="the certificate of the module key", got=str(error))
        return
    for tree, files in subject.image.trees.items():
        for path in _found(subject, tree).values():
            try:
                modules.verify(modules.unpack(files.get(path), path), kernel, path, own=own)
            except (FormatError, SignatureError) as error:
                expected = "a signature by a key of the kernel" + (
                    "" if own is None else " or of the release"
                )
                yield Finding(place=f"{tree}:{path}", expected=expected, got=str(error))


@RULES.rule(
    "GS-MODULE-003", "No driver for removable media, USB, input, graphics, host channels or rare protocols",
    "take the module out of the recipe",
)  # fmt: skip
def legacy(subject: Subject) -> Iterator[Finding]:
    """Neither tree has a module whose name is that of USB, floppy, FireWire, input, graphics, sound,
    vsock, fw_cfg, EFI variables, pstore, file systems of removable media, or network protocols that nothing
    here speaks."""
    for tree in subject.image.trees:
        for name, path in _found(subject, tree).items():
            if name in _LEGACY or name.startswith(_LEGACY_PREFIXES):
                yield Finding(place=f"{tree}:{path}", expected="no such driver", got=name)


@RULES.rule(
    "GS-MODULE-004", "Every module of the root is loaded before the latch closes",
    "name it in modules-load.d; nothing loads it later",
)  # fmt: skip
def loaded_early(subject: Subject) -> Iterator[Finding]:
    """modules-load.d of the root names each module that the recipe lists and that is neither built in nor
    needed by another; and names no module that is not there."""
    root, found = subject.image.root, _found(subject, "root")
    builtin = modules.builtin_names(subject.image.trees)
    named = {
        line.strip().replace("-", "_"): path
        for path in config_files(root, "modules-load.d")
        for line in (root.text(path) or "").splitlines()
        if line.strip() and line.strip()[0] not in "#;"
    }
    for name, path in named.items():
        if name not in found and name not in builtin:
            yield Finding(place=f"root:{path}", expected="a module that is there", got=name)
    for name in {item.replace("-", "_") for item in subject.declared.modules["root"]} & found.keys():
        if name not in named:
            yield Finding(
                place=f"root:{found[name]}", expected="named in modules-load.d", got="nobody loads it in time"
            )
