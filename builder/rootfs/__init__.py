"""Compose a file tree out of package archives and a recipe's layer, without running anything."""

from builder.rootfs.compose import Composition, compose
from builder.rootfs.kernel import CompiledModule, KernelImage, KernelPackage, kernel_image, vermagic
from builder.rootfs.merge import package_origin
from builder.rootfs.summary import summarise

__all__ = [
    "CompiledModule", "Composition", "KernelImage", "KernelPackage", "compose", "kernel_image", "package_origin",
    "summarise", "vermagic",
]  # fmt: skip
