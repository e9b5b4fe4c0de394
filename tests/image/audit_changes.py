"""Changes of an audited image: each takes the subject of the real base image and returns a broken one.

Only the value is changed, so each costs nothing. Some are also made in real bytes: test_audit.py.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace

from builder.audit.model import Subject
from builder.audit.readers.fat import FatFile
from builder.audit.readers.tree import File

Change = Callable[[Subject], Subject]
SYSTEM = "/usr/lib/systemd/system"
ETC = "/etc/systemd/system"
SYSCTL = "/usr/lib/sysctl.d/50-goldsmith.conf"
RULES = "/usr/lib/goldsmith/firewall/rules.nft"
SERVICES = "/usr/lib/goldsmith/firewall/services"
GUARD = "/usr/lib/udev/rules.d/61-goldsmith-command-line.rules"
NETWORK = "/usr/lib/systemd/network/80-ethernet.network"


def text(content: str | bytes, mode: int = 0o644, **more) -> File:
    return File(
        mode=stat.S_IFREG | mode, content=content.encode() if isinstance(content, str) else content, **more
    )


def link(target: str) -> File:
    return File(mode=stat.S_IFLNK | 0o777, content=target.encode())


def put(tree: str, changes: dict[str, File | None]) -> Change:
    """Set or remove files of a tree."""

    def change(subject: Subject) -> Subject:
        image = subject.image
        changed = image.trees[tree].replaced(changes)
        if tree == "initrd":
            return replace(subject, image=replace(image, initrd=changed))
        system = replace(image.root_file_system, tree=changed)
        return replace(subject, image=replace(image, root_file_system=system))

    return change


def edit(tree: str, path: str, old: str, new: str) -> Change:
    """Replace text in a file; the old text must be there."""

    def change(subject: Subject) -> Subject:
        found = subject.image.trees[tree].get(path)
        assert found is not None and old in found.text, f"{path} has no {old!r}"
        edited = replace(found, content=found.text.replace(old, new).encode())
        return put(tree, {path: edited})(subject)

    return change


def metadata(tree: str, path: str, **changes) -> Change:
    """Set an inode's owner, mode or extended attributes."""

    def change(subject: Subject) -> Subject:
        found = subject.image.trees[tree].get(path)
        assert found is not None, path
        if "permissions" in changes:
            bits = changes.pop("permissions")
            return put(tree, {path: replace(found, mode=stat.S_IFMT(found.mode) | bits)})(subject)
        return put(tree, {path: replace(found, **changes)})(subject)

    return change


def word(old: str, new: str = "") -> Change:
    """Replace a word of the sealed command line, or take it out."""

    def change(subject: Subject) -> Subject:
        words = list(subject.image.command_line)
        assert old in words
        line = " ".join(item for each in words if (item := new if each == old else each))
        return section(".cmdline", line.encode())(subject)

    return change


def add_words(more: str) -> Change:
    return lambda subject: section(".cmdline", f"{' '.join(subject.image.command_line)} {more}".encode())(
        subject
    )


def section(name: str, content: bytes | None) -> Change:
    """Set, add or (None) remove a section of the UKI."""

    def change(subject: Subject) -> Subject:
        kept = [item for item in subject.image.sections if item[0] != name]
        added = [] if content is None else [(name, content)]
        return replace(subject, image=replace(subject.image, sections=(*kept, *added)))

    return change


def setting(line: str, new: str = "") -> Change:
    return edit("root", SYSCTL, line, new)


def image(**changes) -> Change:
    return lambda subject: replace(subject, image=replace(subject.image, **changes))


def hash_tree(**changes) -> Change:
    return lambda subject: image(hash_tree=replace(subject.image.hash_tree, **changes))(subject)


def table(index: int, **changes) -> Change:
    def change(subject: Subject) -> Subject:
        partitions = list(subject.image.table.partitions)
        partitions[index] = replace(partitions[index], **changes)
        return image(table=replace(subject.image.table, partitions=tuple(partitions)))(subject)

    return change


def exposed(unit: str, value: float | None) -> Change:
    def change(subject: Subject) -> Subject:
        numbers = {name: number for name, number in subject.references.exposure.items() if name != unit}
        if value is not None:
            numbers[unit] = value
        return replace(subject, references=replace(subject.references, exposure=numbers))

    return change


def kernel_config(old: str, new: str) -> Change:
    def change(subject: Subject) -> Subject:
        config = subject.references.kernel_config
        assert old in config
        return replace(
            subject, references=replace(subject.references, kernel_config=config.replace(old, new))
        )

    return change


def module(tree: str, name: str, content: Callable[[bytes], bytes]) -> Change:
    """Change the unpacked bytes of a module, and write it without compression."""

    def change(subject: Subject) -> Subject:
        from builder.audit.modules import name_of, unpack

        (path,) = [path for path, _ in subject.image.trees[tree].items() if name_of(path) == name]
        raw = unpack(subject.image.trees[tree].get(path), path)
        plain = path[: path.index(".ko")] + ".ko"
        return put(tree, {path: None, plain: text(content(raw))})(subject)

    return change


def declared(**changes) -> Change:
    return lambda subject: replace(subject, declared=replace(subject.declared, **changes))


def more_partitions(subject: Subject) -> Subject:
    table = subject.image.table
    return image(table=replace(table, partitions=table.partitions * 2))(subject)


def more_on_the_esp(subject: Subject) -> Subject:
    addon = FatFile(path="/EFI/BOOT/BOOTX64.EFI.EXTRA.D/X.ADDON.EFI", content=b"")
    return image(esp=(*subject.image.esp, addon))(subject)


def other_times(subject: Subject) -> Subject:
    system = subject.image.root_file_system
    return image(root_file_system=replace(system, times=frozenset({0, 1})))(subject)
