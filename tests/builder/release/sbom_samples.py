"""A small image's inventory: two packages and a kernel, a recipe's file and link, a generated file, two trees."""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder.artifacts import Archive, Lock, Output, PythonPin
from builder.recipe.merged import Recipe, RecipeFile
from builder.recipe.model import Compiler, Distribution, Layer, Toolbox
from builder.release.sbom.facts import package_facts
from builder.release.sbom.inventory import take_inventory
from builder.release.sbom.model import Signature
from builder.tar import Entry
from builder.tree import Kind, Node, Origin, Tree

COPYRIGHT = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+
 On Debian systems: /usr/share/common-licenses/GPL-2

Files: a.c
License: house-rules
 Do as you please.
 .
 But be kind.
"""


def archive(name: str, number: int, *, version: str = "1.0-1", source: str = "") -> Archive:
    return Archive(
        name=name, version=version, architecture="amd64",
        path=f"pool/main/{name[0]}/{source or name}/{name}_{version}_amd64.deb", pocket="trixie", size=100 + number,
        sha256=f"{number:064x}",
    )  # fmt: skip


LIBC = archive("libc6", 1, version="2.41-12+deb13u4", source="glibc")
MOUNT = archive("mount", 2, version="1:2.41.5-0+deb13u1~x", source="util-linux")
KERNEL = archive("linux-image-6.12-amd64", 3, source="linux-signed-amd64")
STUB = archive("systemd-boot-efi", 4, source="systemd")
LOCK = Lock(
    recipe="small", resolution="0" * 64, source_date_epoch=1_700_000_000, indexes=(),
    archives=(LIBC, KERNEL, MOUNT, STUB),
    sets={
        "root": ("libc6=2.41-12+deb13u4", "mount=1:2.41.5-0+deb13u1~x"),
        "initrd": ("libc6=2.41-12+deb13u4",),
        "kernel": ("linux-image-6.12-amd64=1.0-1",),
        "toolbox": ("libc6=2.41-12+deb13u4", "systemd-boot-efi=1.0-1"),
    },
    python={"zstandard": PythonPin(version="0.23.0", sha256=("5" * 64,))}, digest="6" * 64,
)  # fmt: skip
CONTROLS = {
    LIBC: {"Package": "libc6", "Source": "glibc (2.41-12)"},
    MOUNT: {"Package": "mount", "Source": "util-linux", "Depends": "libc6 (>= 2.34) | libc7, gone:any (= 1)"},
    KERNEL: {"Package": KERNEL.name},
}


def node(
    content: bytes = b"", *, package: Archive | None = None, recipe: str = "", step: str = "", **more
) -> Node:
    if package is not None:
        origin = Origin(kind="package", name=package.name, version=package.version)
    elif recipe:
        origin = Origin(kind="recipe", name=recipe)
    else:
        origin = Origin(kind="generated", name=step)
    return Node(**{"kind": Kind.FILE, "mode": 0o644, "origin": origin, "content": content} | more)


def link(target: str, **origin) -> Node:
    return node(kind=Kind.SYMLINK, target=target, **origin)


def trees(os_release: bytes = b"ID=small\n") -> dict[str, Tree]:
    root, initrd = Tree(), Tree()
    for tree in (root, initrd):
        tree.add("/", node(kind=Kind.DIRECTORY, step="file hierarchy"))
        for path in ("/usr", "/usr/bin", "/usr/lib"):
            tree.add(path, node(kind=Kind.DIRECTORY, package=LIBC))
        tree.add("/lib", link("usr/lib", step="file hierarchy"))
        tree.add("/usr/lib/libc.so.6", node(b"library", package=LIBC))
        tree.add("/usr/lib/modules/x.ko", node(b"module", package=KERNEL))
    root.add("/dev/null", node(kind=Kind.CHARACTER_DEVICE, device=(1, 3), recipe="recipe"))
    root.add("/etc/os-release", node(os_release, recipe="recipes/small/files/os-release"))
    root.add("/etc/passwd", node(b"root\n", step="users and groups of the recipe"))
    root.add("/usr/bin/mount", node(b"program", package=MOUNT))
    root.add("/usr/bin/größe", link("mount", recipe="recipe"))
    root.add("/usr/lib/empty", node(b"", package=LIBC))
    return {"root": root, "initrd": initrd}


def recipe() -> Recipe:
    file = RecipeFile(
        path="/etc/os-release", content=b"", mode=0o644, owner="root", group="root", replaces=None,
        origin="recipes/small/files/os-release",
    )  # fmt: skip
    return Recipe(
        name="small", version="1.0", svn=1, summary="small", validity_days=1,
        distribution=Distribution.model_validate(
            {"name": "debian", "suite": "trixie", "pockets": ["release"], "components": ["main"],
             "architecture": "amd64"},
            strict=False,
        ),
        root=Layer.model_validate({"packages": ["mount"]}, strict=False),
        initrd=Layer.model_validate({"packages": ["libc6"]}, strict=False),
        files={"root": (file,), "initrd": ()}, kernel_package="linux-image-amd64", command_line=(),
        toolbox=Toolbox.model_validate({"packages": ["systemd-boot-efi"]}, strict=False),
        compiler=Compiler(), module_sources=(), patches={}, firmware=(), emulators=(), platforms=(), sev_snp=(), tdx=(),
        variables={}, path=Path("recipes/small/recipe.yaml"), sources=(),
    )  # fmt: skip


def signature() -> dict[str, Signature]:
    """What `x.ko` of `trees` is made of, if its bytes are those of a signed module."""
    made = Signature(
        unsigned="x.ko", unsigned_sha256="a" * 64, file="x.ko.p7s", sha256="b" * 64, signer="CN=Somebody"
    )
    return {hashlib.sha256(b"module").hexdigest(): made}


def inventory(**changes):
    """Return the inventory; ``changes`` go to `take_inventory`, or to `trees`."""
    files = {"os_release": changes.pop("os_release")} if "os_release" in changes else {}
    entry = Entry(
        path="/usr/share/doc/mount/copyright", kind=Kind.FILE, mode=0o644, uid=0, gid=0,
        content=memoryview(COPYRIGHT),
    )  # fmt: skip
    given = {
        "trees": trees(**files),
        "uki_inputs": {"/boot/vmlinuz-6.12": (KERNEL, b"kernel"), "/usr/lib/stub": (STUB, b"stub")},
        "facts": {item.sha256: package_facts(item, control, [entry]) for item, control in CONTROLS.items()},
        "root_hash": "7" * 64,
        "disk": Output(name="disk.raw", path=Path("disk.raw"), size=4096, sha256="8" * 64),
        "uki": Output(name="uki.efi", path=Path("uki.efi"), size=512, sha256="9" * 64),
    }
    return take_inventory(recipe(), changes.pop("lock", LOCK), **given | changes)
