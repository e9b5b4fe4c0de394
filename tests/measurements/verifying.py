"""Running the verifier on a machine of ``attester``, and reading its verdict."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

from attester import Machine, policy, signed

from measurements.verify import Status, Verdict, verify

ENVELOPE = signed()


def run(
    machine: Machine | None = None,
    *,
    envelope: bytes = ENVELOPE,
    edit: Callable[[dict], None] | None = None,
    evidence: dict | None = None,
    **demands: object,
) -> Verdict:
    """Verify a machine's evidence, edited on the way, under a policy with these demands."""
    value = evidence or (machine or Machine()).evidence()
    if edit is not None:
        edit(value)
    return verify(envelope, json.dumps(value).encode(), policy(**demands))


def failed(verdict: Verdict) -> dict[int, str]:
    """Return what failed, by number."""
    assert not verdict.passed
    return {check.number: check.detail for check in verdict.checks if check.status is Status.FAILED}


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()
