"""The test extension: an add-on whose initrd brings the command channel's agent, and lays a mask over one udev rule.

Nothing in the image helps. The production initrd powers off where PCR 12 is neither zero nor that of the debug console
(recipes/common/hardening/61-goldsmith-command-line.rules), and it does so by a file; the add-on's archive is unpacked
after it, over it. So this is also what an attacker does who may write to the ESP while Secure Boot is off, and why
measurement alone, never the machine itself, says what runs. PCR 4, 9 and 12 say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import standin as standin_module
from holds import Hold

from builder.boot.addons import Sign, build_addon
from builder.image.cpio import compress_initrd, write_cpio
from builder.tools import Tools
from builder.tree import Kind, Node, Origin, Tree

GUEST = Path(__file__).with_name("guest")
_ORIGIN = Origin(kind="generated", name="live test extension")
_LIBRARY, _TMPFILES = "/usr/lib/goldsmith-live", "/usr/lib/tmpfiles.d/goldsmith-live.conf"
#: Files of the add-on's initrd, each with its source: for a machine that has come up, and for one that is held before.
_FILES = {
    f"{_LIBRARY}/agent.py": "agent.py",
    f"{_LIBRARY}/goldsmith-live.service": "goldsmith-live.service",
    _TMPFILES: "tmpfiles.conf",
}
_EARLY_FILES = {
    f"{_LIBRARY}/agent.py": "agent.py",
    f"{_LIBRARY}/hold.py": "hold.py",
    f"{_LIBRARY}/goldsmith-live-early.service": "goldsmith-live-early.service",
    _TMPFILES: "tmpfiles-early.conf",
}
#: udev reads /etc first, and an empty file of the same name masks the rule (udev(7)).
_MASK = "/etc/udev/rules.d/61-goldsmith-command-line.rules"
_STANDIN_UNIT = "goldsmith-standin.service"


def extension(
    tools: Tools,
    folder: Path,
    *,
    masked: bool = True,
    standin: bytes | None = None,
    sign: Sign | None = None,
    holds: Sequence[Hold] = (),
    drop_ins: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write the add-on below ``folder``.

    Args:
        tools: the toolbox.
        folder: private to the caller.
        masked: lay the mask over the rule that would stop the machine.
        standin: a kernel module that the initrd loads, before the root's first module (`standin`).
        sign: signs it for a machine that verifies.
        holds: where the boot waits; the agent then starts before all of them.
        drop_ins: unit -> what is added to it.
    """
    tree = Tree()
    for path, source in (_EARLY_FILES if holds else _FILES).items():
        _put(tree, path, (GUEST / source).read_bytes())
    if holds:
        lines = []
        for hold in holds:
            _put(tree, f"{_LIBRARY}/{hold.unit}", hold.content())
            lines += [
                f"C  /run/systemd/system/{hold.unit} 0644 - - - {_LIBRARY}/{hold.unit}",
                f"L  /run/systemd/system/sysinit.target.wants/{hold.unit} - - - - ../{hold.unit}",
            ]
        _put(tree, _TMPFILES.replace(".conf", "-holds.conf"), "\n".join([*lines, ""]).encode())
    for unit, text in drop_ins.items():
        _put(tree, f"{_LIBRARY}/{unit}.conf", text.encode())
        folder_of_unit = f"/run/systemd/system/{unit}.d"
        lines = f"d  {folder_of_unit} 0755\nC  {folder_of_unit}/live.conf 0644 - - - {_LIBRARY}/{unit}.conf\n"
        _put(tree, _TMPFILES.replace(".conf", f"-{unit}.conf"), lines.encode())
    if masked:
        _put(tree, _MASK, b"")
    if standin is not None:
        _put(tree, f"/usr/lib/goldsmith-live/{standin_module.NAME}.ko", standin)
        unit = f"/usr/lib/systemd/system/{_STANDIN_UNIT}"
        _put(tree, unit, (GUEST / _STANDIN_UNIT).read_bytes())
        _put(tree, f"/usr/lib/systemd/system/sysinit.target.wants/{_STANDIN_UNIT}", f"../{_STANDIN_UNIT}")
    archive = compress_initrd(write_cpio(tree, source_date_epoch=tools.source_date_epoch))
    return build_addon(tools, folder, name="live", initrd=archive, sign=sign)


def _put(tree: Tree, path: str, content: bytes | str) -> None:
    """Add a file, or a link to what text names, with the folders above it."""
    for parent in reversed(Path(path).parents):
        if str(parent) != "/" and str(parent) not in tree:
            tree.add(str(parent), Node(kind=Kind.DIRECTORY, mode=0o755, origin=_ORIGIN))
    if isinstance(content, str):
        tree.add(path, Node(kind=Kind.SYMLINK, mode=0o777, origin=_ORIGIN, target=content))
    else:
        tree.add(path, Node(kind=Kind.FILE, mode=0o644, origin=_ORIGIN, content=content))
