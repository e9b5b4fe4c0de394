"""Reference values for confidential machines: predict them, publish them, and verify evidence against them.

This package is what a verifier imports. It takes bytes and values, never paths; it starts no process and
opens no socket. ``builder`` adds everything that touches a machine.
"""
