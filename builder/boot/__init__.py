"""Boots a release in QEMU with a software TPM, and fetches evidence from it."""
