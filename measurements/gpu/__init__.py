"""NVIDIA GPUs in confidential mode: their measurement reports, certificates and reference values.

Everything works on bytes that were recorded: no GPU, no network, no clock.
"""
