"""Locks the kernel down for good: what PID 1 opened is told the last word. Both files take no step back.

security/lockdown/lockdown.c: a level can only be raised. kernel/module/signing.c: enforcement can only be switched on.
"""

import os

_WORDS = {"lockdown": b"confidentiality", "sig_enforce": b"1"}
_FIRST_DESCRIPTOR = 3  # sd_listen_fds(3)

for _number, _name in enumerate(os.environ["LISTEN_FDNAMES"].split(":"), _FIRST_DESCRIPTOR):
    os.write(_number, _WORDS[_name])
