"""The image as a whole: verity, partitions, ESP, UKI, secrets, identity (docs/hardening.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from uuid import UUID

from builder.audit.image import BOOT_PATH, ESP, ROOT, ROOT_VERITY, BootImage
from builder.audit.model import Finding, Subject
from builder.audit.rules.registry import RuleSet, needs_words

RULES = RuleSet("File systems")

#: Discoverable Partitions Specification, "Partition Flags".
_READ_ONLY = 1 << 60
_ROOT_WORDS = [
    "root=/dev/mapper/root", "rootfstype=erofs", "ro", "systemd.verity=yes",
    "systemd.verity_root_options=panic-on-corruption", "systemd.gpt_auto=no", "systemd.firstboot=no",
]  # fmt: skip
_STUB = (".text", ".rodata", ".data", ".reloc", ".sdmagic", ".sbat")
_PAYLOAD = (".osrel", ".cmdline", ".uname", ".linux", ".initrd")
_SBAT = re.compile(r"[a-z0-9._-]+,\d+(?:,[^,\n]*){4}\Z")
_PRIVATE_KEY = re.compile(
    rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\r?\n[A-Za-z0-9+/=:\r\n ,.-]{40}|openssh-key-v1\0"
)
#: Looked for first: most files have neither, and a plain search is much faster.
_KEY_MARKS = (b"PRIVATE KEY-----", b"openssh-key-v1")
_HOST_PATH = re.compile(
    rb"/(?:home|Users)/[A-Za-z0-9_][A-Za-z0-9_.-]*/|/root/[A-Za-z0-9._-]+/|/build/(?!reproducible-path/)[A-Za-z0-9]|/tmp/tmp[a-z0-9_]{8}"
)


@RULES.rule(
    "GS-IMAGE-001", "dm-verity covers the whole root, up to the sealed root hash",
    "build again; never change a disk after its root hash was sealed",
)  # fmt: skip
def verity(subject: Subject) -> Iterator[Finding]:
    """The hash tree computed over the root partition is the stored one, its root is the `roothash=` of
    the sealed command line, it has a salt, it covers every block of the file system, and nothing follows
    it."""
    tree, system = subject.image.hash_tree, subject.image.root_file_system
    sealed = [word.partition("=")[2] for word in subject.image.command_line if word.startswith("roothash=")]
    if sealed != [tree.root_hash]:
        yield Finding(
            place="uki.efi:.cmdline",
            expected=f"roothash={tree.root_hash}, once",
            got=" ".join(sealed) or "none",
        )
    if not tree.stored:
        yield Finding(
            place="disk.raw:root-verity", expected="the hash tree of the root partition", got="another"
        )
    if not tree.salt:
        yield Finding(place="disk.raw:root-verity", expected="a salt", got="none")
    if tree.data_size < system.size:
        yield Finding(
            place="disk.raw:root-verity", expected=f"{system.size} bytes covered", got=str(tree.data_size)
        )
    if not tree.rest_is_zero:
        yield Finding(place="disk.raw:root-verity", expected="zeros behind the hash tree", got="other bytes")


@RULES.rule(
    "GS-IMAGE-002", "The root is mounted read only, through dm-verity, and from nowhere else",
    "include common/kernel",
)  # fmt: skip
def root_words(subject: Subject) -> Iterator[Finding]:
    """The sealed command line mounts `/dev/mapper/root` as EROFS, read only, stops at a corrupt block,
    and turns automatic partitions and first boot questions off."""
    yield from needs_words(subject, _ROOT_WORDS)


@RULES.rule(
    "GS-IMAGE-003", "The disk has three partitions, named by the root hash",
    "build again",
)  # fmt: skip
def partitions(subject: Subject) -> Iterator[Finding]:
    """There are an ESP, a root and a verity partition and no other; root and verity are flagged read
    only, and their GUIDs are the first and last 128 bits of the root hash; the backup table agrees; no
    byte lies outside of them."""
    image = subject.image
    kinds = [str(partition.type) for partition in image.table.partitions]
    if kinds != [ESP, ROOT, ROOT_VERITY]:
        yield Finding(
            place="disk.raw:partition table", expected="ESP, root, root verity", got=", ".join(kinds)
        )
    root_hash = image.hash_tree.root_hash
    wanted = {ROOT: UUID(hex=root_hash[:32]), ROOT_VERITY: UUID(hex=root_hash[-32:])}
    for partition in image.table.partitions:
        expected = wanted.get(str(partition.type))
        place = f"disk.raw:{partition.name}"
        if expected is not None and partition.unique != expected:
            yield Finding(place=place, expected=f"GUID {expected}", got=str(partition.unique))
        if expected is not None and not partition.attributes & _READ_ONLY:
            yield Finding(place=place, expected="the flag read-only", got=f"0x{partition.attributes:x}")
    if not image.backup_agrees:
        yield Finding(
            place="disk.raw:backup partition table", expected="the same as the first", got="another, or none"
        )
    for offset, size in image.stray:
        yield Finding(
            place=f"disk.raw:byte {offset}",
            expected="zeros outside of partitions",
            got=f"data within {size} bytes",
        )


@RULES.rule(
    "GS-IMAGE-004", "The ESP holds one file, and it is the published UKI",
    "build again; sign with goldsmith seal, which adds a signature and nothing else",
)  # fmt: skip
def esp(subject: Subject) -> Iterator[Finding]:
    """The EFI system partition has exactly the file at the removable path; it is uki.efi byte for byte,
    or that with an Authenticode signature."""
    for file in subject.image.esp:
        if file.path != BOOT_PATH:
            yield Finding(
                place=f"disk.raw:esp{file.path}", expected=f"{BOOT_PATH} alone", got="a further file"
            )
    if subject.image.boot_image not in (BootImage.EQUAL, BootImage.SIGNED):
        yield Finding(
            place=f"disk.raw:esp{BOOT_PATH}",
            expected="uki.efi, signed or not",
            got=subject.image.boot_image.value,
        )


@RULES.rule(
    "GS-IMAGE-005", "The UKI has the known sections and no other",
    "build the UKI without further sections, profiles or device trees",
)  # fmt: skip
def sections(subject: Subject) -> Iterator[Finding]:
    """Each section is one of the stub's own or of os-release, command line, kernel release, kernel and
    initrd, once; no profile, splash, microcode, device tree or PCR signature."""
    names = [name for name, _ in subject.image.sections]
    for name in dict.fromkeys(names):
        if name not in _STUB + _PAYLOAD:
            yield Finding(place=f"uki.efi:{name}", expected="a known section", got="another")
        elif names.count(name) > 1:
            yield Finding(place=f"uki.efi:{name}", expected="once", got=f"{names.count(name)} times")
    for name in (*_PAYLOAD, ".sbat"):
        if name not in names:
            yield Finding(place=f"uki.efi:{name}", expected="this section", got="none")


@RULES.rule(
    "GS-IMAGE-006", "The UKI can be revoked by generation",
    "build with the locked stub; recipes do not change SBAT",
)  # fmt: skip
def sbat(subject: Subject) -> Iterator[Finding]:
    """`.sbat` is a well-formed table that begins with `sbat,1` and has a line for the stub or the UKI."""
    text = subject.image.section(".sbat").rstrip(b"\0").decode("utf-8", "replace")
    lines = text.splitlines()
    names = [line.partition(",")[0] for line in lines]
    if not lines or not lines[0].startswith("sbat,1,") or not {"uki", "systemd-stub"} & set(names):
        yield Finding(
            place="uki.efi:.sbat",
            expected="sbat,1 and a line for uki or systemd-stub",
            got=", ".join(names) or "nothing",
        )
    for line in lines:
        if not _SBAT.match(line):
            yield Finding(
                place="uki.efi:.sbat",
                expected="component,generation,vendor,package,version,url",
                got=line[:120],
            )


@RULES.rule(
    "GS-IMAGE-007", "The image says who it is, everywhere the same",
    "os-release comes from the recipe's name and version",
)  # fmt: skip
def names(subject: Subject) -> Iterator[Finding]:
    """IMAGE_ID and IMAGE_VERSION in the root's os-release are the recipe's name and version, and the
    UKI's `.osrel` is that very file."""
    text = subject.image.root.text("/etc/os-release") or ""
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    for key, wanted in (("IMAGE_ID", subject.declared.name), ("IMAGE_VERSION", subject.declared.version)):
        if (got := fields.get(key, "").strip('"')) != wanted:
            yield Finding(place="root:/etc/os-release", expected=f"{key}={wanted}", got=got or "not set")
    if subject.image.section(".osrel").rstrip(b"\0") != text.encode():
        yield Finding(place="uki.efi:.osrel", expected="/etc/os-release of the root", got="another text")


@RULES.rule(
    "GS-IMAGE-008", "There is no private key in the image",
    "take the key out and make a new one; whoever has the image has had this one",
)  # fmt: skip
def private_keys(subject: Subject) -> Iterator[Finding]:
    """No file of either tree holds a PEM or OpenSSH private key, or is called like a key store."""
    for tree, files in subject.image.trees.items():
        for path, file in files.items():
            marked = any(mark in file.content for mark in _KEY_MARKS)
            if file.is_file and marked and (match := _PRIVATE_KEY.search(file.content)):
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="no private key",
                    got=match[0][:40].decode("ascii", "replace"),
                )
            if path.endswith((".p12", ".pfx", ".jks", ".keytab")):
                yield Finding(place=f"{tree}:{path}", expected="no key store", got="a file with such a name")


@RULES.rule(
    "GS-IMAGE-009", "Nothing of the machine that built it is in the image",
    "find what wrote the path; a build must not depend on where it runs",
)  # fmt: skip
def host_paths(subject: Subject) -> Iterator[Finding]:
    """No file of either tree names a home folder, a build folder or a temporary folder, and every file
    has the lock's time."""
    for tree, files in subject.image.trees.items():
        for path, file in files.items():
            if file.is_file and (match := _HOST_PATH.search(file.content)):
                yield Finding(
                    place=f"{tree}:{path}",
                    expected="no path of a build machine",
                    got=match[0].decode("ascii", "replace"),
                )
    system = subject.image.root_file_system
    if system.times != {system.build_time}:
        yield Finding(
            place="disk.raw:root",
            expected=f"every time is {system.build_time}",
            got=f"{len(system.times)} different times",
        )
