"""Compose a file tree out of package archives and a recipe's layer, without running anything."""

from builder.rootfs.compose import Composition, compose
from builder.rootfs.kernel import KernelImage, KernelPackage, kernel_image
from builder.rootfs.summary import summarise

__all__ = [
    "Composition", "KernelImage", "KernelPackage", "compose", "kernel_image", "summarise",
]  # fmt: skip
