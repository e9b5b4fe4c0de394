"""The host's side of the TPM: the key that the evidence service will sign with, before the guest runs.

A primary key follows from the hierarchy's seed and the template alone (TCG TPM 2.0 Library 1.59, Part 1,
27.6.3), so whoever owns the TPM's state can make the same key and pin its public half: that is the verifier's
trust in a software TPM. The template is that of recipes/common/evidence/tpm.py (docs/evidence-service.md).
"""

from __future__ import annotations

import os
from pathlib import Path

from builder.errors import BootError

#: TPMT_PUBLIC: a restricted ECDSA P-256 signing key (Part 2, 12.2.4).
ATTESTATION_KEY_TEMPLATE = bytes.fromhex("0023000b0005007200000010" + "0018000b0003001000000000")


def make_attestation_key(channel: Path) -> str:
    """Make the attestation key in a started TPM and return its SubjectPublicKeyInfo as PEM.

    The TPM is shut down in an orderly way afterwards (TPM2_Shutdown, Part 3, 9.4): what a guest finds is a TPM
    after reset, its PCRs zero.

    Args:
        channel: the software TPM's data socket; its control socket is ``<channel>.ctrl``.

    Raises:
        BootError: the TPM refuses, or the host has no library to talk to it.
    """
    os.environ.setdefault("TSS2_LOG", "all+NONE")  # failures come back as exceptions; nothing else may print
    try:
        import tpm2_pytss as tss
    except (ImportError, OSError, RuntimeError) as error:
        raise BootError(
            f"cannot load tpm2-pytss: {error}", hint="apt-get install libtss2-dev, then make image"
        ) from error

    template, _ = tss.TPMT_PUBLIC.unmarshal(ATTESTATION_KEY_TEMPLATE)
    try:
        with tss.ESAPI(f"swtpm:path={channel}") as tpm:
            handle, public, *_ = tpm.create_primary(
                tss.TPM2B_SENSITIVE_CREATE(), tss.TPM2B_PUBLIC(publicArea=template), tss.ESYS_TR.ENDORSEMENT
            )
            pem: bytes = public.to_pem()
            tpm.flush_context(handle)
            tpm.shutdown(tss.TPM2_SU.CLEAR)
    except (tss.TSS2_Exception, RuntimeError) as error:
        raise BootError(f"the software TPM made no attestation key: {error}") from error
    return pem.decode()
