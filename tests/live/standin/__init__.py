"""What the test of NVIDIA's driver brings along, compiled with the compiler that compiles the driver.

The stand-in for an NVIDIA device (`goldsmith_standin.c`) is a kernel module under the GPL; it is linked with nothing of
this project, and no recipe, image or package names it. `cuinit.c` asks CUDA's library to start.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from builder.kbuild.check import check_module, read_symvers
from builder.kbuild.sandbox import WORK, Sandbox
from builder.lockfile import read_lock
from builder.recipe import load_recipe
from builder.rootfs import kernel_image, vermagic
from builder.store import Store
from builder.toolbox import open_members, unpack_compiler
from builder.tools import Tools

SOURCE = Path(__file__).parent
NAME = "goldsmith_standin"
_CUDA = "libcuda.so.1"


class Workshop:
    """Compiles for the image of a recipe that compiles kernel modules.

    Args:
        recipe: the recipe's folder; its locked archives are in the default store.
        folder: private and empty.
    """

    def __init__(self, recipe: Path, folder: Path) -> None:
        loaded = load_recipe(recipe)
        lock = read_lock(loaded.lock_path, recipe=loaded.name)
        self._folder = folder
        self._tools: Tools = unpack_compiler(lock, loaded.compiler.links, Store.default())
        (package,) = open_members(lock.members("kernel"), Store.default(), recipe=loaded.name)
        self._kernel = tuple(package.entries())

    def standin(self) -> bytes:
        """Return the stand-in's module: for the image's kernel, unsigned."""
        shutil.copy(SOURCE / f"{NAME}.c", self._folder)
        (self._folder / "Kbuild").write_text(f"obj-m := {NAME}.o\n")
        headers = f"usr/src/linux-headers-{kernel_image(self._kernel).release}"
        self._run("make", "-C", f"/{headers}", f"M={WORK}", "modules")
        symvers = self._tools.path(f"{headers}/Module.symvers").read_text()
        module = check_module(
            NAME,
            (self._folder / f"{NAME}.ko").read_bytes(),
            vermagic=vermagic(self._kernel),
            exported=read_symvers(symvers, "Module.symvers"),
        )
        return module.content

    def cuinit(self) -> bytes:
        """Return a program that is linked with the guest's libcuda, and with no C library."""
        shutil.copy(SOURCE / "cuinit.c", self._folder)
        (self._folder / "cuda.c").write_text("int cuInit(unsigned int flags) { return flags; }\n")
        plain = ("gcc", "-O2", "-nostdlib", "-fno-stack-protector")
        self._run(*plain, "-shared", "-fPIC", f"-Wl,-soname,{_CUDA}", "-o", _CUDA, "cuda.c")
        self._run(*plain, "-pie", "-fPIE", "-o", "cuinit", "cuinit.c", _CUDA)
        return (self._folder / "cuinit").read_bytes()

    def _run(self, *command: str) -> None:
        Sandbox(tools=self._tools, work=self._folder).run(command)
