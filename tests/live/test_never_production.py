"""A machine with the test extension can never pass for production, and nothing but the extension tells it apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from machine import LiveMachine

from measurements.attestation_key import load_attestation_key
from measurements.keys import load_public_key
from measurements.policy import ExpectedNonce, PinnedKey, Policy
from measurements.verify import Verdict, verify

#: systemd-stub measures the add-on's archive (12, systemd-stub(7)); firmware measured the add-on itself, which the stub
#: loads like a program (4), and the kernel's own stub measures all archives together (9).
MOVED = {4, 9, 12}
#: Their indexes, where a release pins them: 10 is the kernel's.
PINNED = {*range(10), 11, 12, 13, 14, 15}


def judge(machine: LiveMachine, release: Path, *, image: str = "base") -> Verdict:
    """Hold a machine's evidence against a release's own golden document."""
    return verify(
        (release / "golden.dsse.json").read_bytes(),
        machine.evidence,
        Policy(
            threshold=1,
            now=None,
            minimum_svn=0,
            signers=(load_public_key((release / "release.pub").read_bytes()),),
            nonce=ExpectedNonce(value=machine.nonce),
            attestation_key=PinnedKey(key=load_attestation_key(machine.running.attestation_key)),
            image=image,
            shape=None,
        ),
    )


@pytest.fixture(scope="module")
def verdict(live: LiveMachine, release: Path) -> Verdict:
    return judge(live, release)


def test_it_does_not_verify(verdict):
    assert not verdict.passed
    assert any("PCR 12" in failure and "live.addon.efi" in failure for failure in verdict.failures)


def test_everything_else_is_the_release(verdict):
    """One register after the other: what was tested is the production image on the production machine."""
    assert {each.index for each in verdict.registers if each.pinned} == PINNED
    for each in verdict.registers:
        if each.pinned:
            assert each.equal is (each.index not in MOVED), f"PCR {each.index}, {each.bank}: {each.reason}"


def test_the_evidence_itself_is_genuine(verdict):
    """What fails is the comparison with the document; quotes, nonce, key and event log hold."""
    failed = {check.name for check in verdict.checks if check.status.value == "failed"}
    assert failed == {"launch shape", "registers", "events"}
