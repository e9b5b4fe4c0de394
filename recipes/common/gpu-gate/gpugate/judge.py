"""What this image expects of its GPUs, from its own verity root, and the appraisal that remote verifiers run too."""

import os
import sys

from gpugate.collect import collect
from gpugate.machine import Machine
from gpugate.steps import RefusalError
from measurements.gpu import appraise, evidence, expectations

FOLDER = "usr/lib/goldsmith/gpu"
MAX_FILE = 1 << 20
MAX_FILES = 64


class Judge:
    """The expectations, the reference manifests, and the revocation lists that this image holds."""

    def __init__(self, machine: Machine, root: str = "/", **authorities: object) -> None:
        """``authorities``: other roots than NVIDIA's (`measurements.gpu.appraise.Policy`), for tests."""
        self._machine = machine
        self._folder = root + FOLDER
        self._authorities = authorities
        self._expectations: expectations.GpuExpectations | None = None
        self._rims: list[bytes] = []
        self._lists: list[bytes] = []

    def load(self) -> str:
        """Read them; return what they expect, in words."""
        found = expectations.parse(_read(f"{self._folder}/policy.json"))
        self._rims = _files(f"{self._folder}/rims", ".swidtag")
        self._lists = _files(f"{self._folder}/revocation", ".crl")
        self._expectations = found
        return f"{found.count} GPU(s) of {found.architecture}, driver {found.driver_version}, {len(self._rims)} RIM(s)"

    def driver_version(self) -> str:
        """Return the version that the driver must have."""
        return self._expected().driver_version

    def collect(self, nonce: bytes) -> evidence.GpuEvidence:
        """Collect evidence, through the bytes that a verifier would get."""
        undecided = evidence.GateRecord(ready=False, reason="the gate has not decided yet")
        return evidence.parse(evidence.serialize(collect(self._machine, nonce, undecided)))

    def appraise(self, found: evidence.GpuEvidence, nonce: bytes) -> str:
        """Hold evidence against the expectations.

        The guest has no clock that it may trust. Manifests, which are measured with the image, are judged as of their
        import; certificates of GPUs, which come from the machine, by the clock that there is.

        Raises:
            RefusalError: a check does not hold.
        """
        policy = appraise.Policy(
            at=self._machine.now(), rims_at=None, decided=False, crls=self._lists, **self._authorities
        )
        result = appraise.appraise(found, self._expected(), self._rims, nonce=nonce, policy=policy)
        for warning in result.warnings:
            print(warning, file=sys.stderr)
        if not result.passed:
            raise RefusalError("; ".join(result.failures))
        return f"{len(result.checks)} checks hold"

    def _expected(self) -> expectations.GpuExpectations:
        if self._expectations is None:
            raise RefusalError("the expectations were not read")
        return self._expectations


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise RefusalError(f"{path} is larger than {MAX_FILE} bytes")
    return data


def _files(folder: str, suffix: str) -> list[bytes]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(suffix))
    except FileNotFoundError:
        return []
    if len(names) > MAX_FILES:
        raise RefusalError(f"{folder} holds {len(names)} files; at most {MAX_FILES} are read")
    return [_read(f"{folder}/{name}") for name in names]
