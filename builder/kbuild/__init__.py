"""Kernel modules that no package ships compiled: built from locked source, in a sandbox, checked, signed."""
