"""What a guest's GPU evidence service answers: the GPUs' reports, and what the driver and the gate say.

docs/evidence-service.md, "GPUs". The guest writes it with this module and the verifier reads it with this
module. Only reports are signed by GPUs; all else is the word of the guest, which the TPM's quotes bind to the image
that says it (`qualifying_data`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from measurements.errors import FormatError
from measurements.gpu.certificates import MAX_CHAIN_BYTES
from measurements.gpu.expectations import MAX_GPUS
from measurements.gpu.report import MAX_REPORT_BYTES, NONCE_SIZE
from measurements.strictjson import Fields, loads

FORMAT: Final = "goldsmith-gpu-evidence/1"
MAX_GPU_EVIDENCE_BYTES: Final = 1 << 20
MAX_NVSWITCHES: Final = 256
MAX_STEPS: Final = 64
MAX_TEXT: Final = 1024
MAX_NAME: Final = 64

_NAME = re.compile(r"[a-z0-9][a-z0-9 ._-]*", re.ASCII)
_UUID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*", re.ASCII)
_PRINTABLE = re.compile(r"[ -~]*", re.ASCII)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]*", re.ASCII)
_WHAT = "GPU evidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStep:
    """One step of the gate at boot: its name, whether it held, and what it found."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRecord:
    """What the gate recorded at boot.

    Attributes:
        ready: it found everything in order, and set the GPUs' ready state.
        reason: why not; ``None`` where it did.
        steps: what it did, in order, up to the step that failed.
    """

    ready: bool
    reason: str | None = None
    steps: tuple[GateStep, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReport:
    """One GPU.

    Attributes:
        uuid: the driver's name for it.
        architecture: the driver's word for it, in lower case ("hopper").
        report: SPDM request and response.
        certificates: PEM, the attestation key's first.
    """

    uuid: str
    architecture: str
    report: bytes = field(repr=False)
    certificates: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuEvidence:
    """The document. What could not be read is ``None``, and ``error`` says why.

    Attributes:
        nonce: what the GPUs were asked with, 32 bytes (`gpu_nonce`).
        gate: the gate's record of this boot.
        driver_version: the driver's, as it says.
        confidential_mode: on, off, or not known.
        developer_tools: likewise.
        ready: the ready state, likewise.
        nvswitches: how many the driver sees.
        gpus: in the driver's order.
        error: what went wrong while this was collected.
    """

    nonce: bytes
    gate: GateRecord
    driver_version: str | None = None
    confidential_mode: bool | None = None
    developer_tools: bool | None = None
    ready: bool | None = None
    nvswitches: int | None = None
    gpus: tuple[GpuReport, ...] = ()
    error: str | None = None


def gpu_nonce(nonce: bytes) -> bytes:
    """Return what GPUs are asked with for a verifier's nonce of 16 to 64 bytes: its SHA-256."""
    return hashlib.sha256(nonce).digest()


def qualifying_data(nonce: bytes, gpu: bytes | None) -> bytes:
    """Return what the TPM's quotes carry: the nonce, or a digest that binds the GPU evidence to it too.

    Args:
        nonce: the verifier's.
        gpu: the bytes of the GPU evidence; ``None`` on images without.
    """
    return nonce if gpu is None else hashlib.sha256(nonce + hashlib.sha256(gpu).digest()).digest()


def tidy(text: str) -> str:
    """Return a message of anyone's as text that the document may hold: printable ASCII, not too long."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text[:MAX_TEXT])


def serialize(evidence: GpuEvidence) -> bytes:
    """Return the document: compact JSON in ASCII and a newline.

    Raises:
        FormatError, LimitError: `parse` would not read it back to an equal value.
    """
    value = {
        "format": FORMAT,
        "nonce": evidence.nonce.hex(),
        "gate": {
            "ready": evidence.gate.ready,
            "reason": evidence.gate.reason,
            "steps": [
                {"name": step.name, "ok": step.ok, "detail": step.detail} for step in evidence.gate.steps
            ],
        },
        "driver_version": evidence.driver_version,
        "confidential_mode": evidence.confidential_mode,
        "developer_tools": evidence.developer_tools,
        "ready": evidence.ready,
        "nvswitches": evidence.nvswitches,
        "gpus": [_gpu_value(gpu) for gpu in evidence.gpus],
        "error": evidence.error,
    }
    data = (json.dumps(value, separators=(",", ":")) + "\n").encode("ascii")
    if parse(data) != evidence:
        raise FormatError(f"{_WHAT}: does not survive being written and read")
    return data


def _gpu_value(gpu: GpuReport) -> Mapping[str, Any]:
    try:
        certificates = gpu.certificates.decode("ascii")
    except UnicodeDecodeError:
        raise FormatError(f"{_WHAT}: certificates of {gpu.uuid} hold bytes that are not ASCII") from None
    return {
        "uuid": gpu.uuid,
        "architecture": gpu.architecture,
        "report": base64.b64encode(gpu.report).decode("ascii"),
        "certificates": certificates,
    }


def parse(data: bytes) -> GpuEvidence:
    """Parse the document.

    Raises:
        FormatError: not JSON, another format, a name missing, unknown or doubled, a wrong type or length; a gate that
            is ready for a reason, or not ready for none.
        LimitError: a named limit of this module is exceeded.
    """
    fields = Fields(loads(data, what=_WHAT, max_bytes=MAX_GPU_EVIDENCE_BYTES), _WHAT)
    if fields.raw("format") != FORMAT:
        raise FormatError(f"{_WHAT}: format is {str(fields.raw('format'))[:40]!r}; expected {FORMAT!r}")
    driver = fields.raw("driver_version")
    evidence = GpuEvidence(
        nonce=fields.hex("nonce", size=NONCE_SIZE),
        gate=_gate(fields.fields("gate")),
        driver_version=None
        if driver is None
        else fields.text("driver_version", max_length=MAX_NAME, pattern=_VERSION),
        confidential_mode=_state(fields, "confidential_mode"),
        developer_tools=_state(fields, "developer_tools"),
        ready=_state(fields, "ready"),
        nvswitches=None
        if fields.raw("nvswitches") is None
        else fields.integer("nvswitches", maximum=MAX_NVSWITCHES),
        gpus=tuple(
            _gpu(Fields(item, f"{_WHAT}: gpus[{position}]"))
            for position, item in enumerate(fields.array("gpus", max_items=MAX_GPUS))
        ),
        error=_said(fields, "error"),
    )
    fields.end()
    return evidence


def _gate(fields: Fields) -> GateRecord:
    gate = GateRecord(
        ready=fields.boolean("ready"),
        reason=_said(fields, "reason"),
        steps=tuple(
            _step(Fields(item, f"{fields.where}: steps[{position}]"))
            for position, item in enumerate(fields.array("steps", max_items=MAX_STEPS))
        ),
    )
    fields.end()
    if gate.ready is (gate.reason is not None):
        raise FormatError(
            f"{fields.where}: expected a reason where the gate is not ready, and none where it is"
        )
    return gate


def _step(fields: Fields) -> GateStep:
    step = GateStep(
        name=fields.text("name", max_length=MAX_NAME, pattern=_NAME),
        ok=fields.boolean("ok"),
        detail=fields.text("detail", max_length=MAX_TEXT, pattern=_PRINTABLE),
    )
    fields.end()
    return step


def _gpu(fields: Fields) -> GpuReport:
    certificates = fields.text("certificates", max_length=MAX_CHAIN_BYTES)
    if not certificates.isascii():
        raise FormatError(f"{fields.where}: 'certificates' holds characters that are not ASCII")
    gpu = GpuReport(
        uuid=fields.text("uuid", max_length=MAX_NAME, pattern=_UUID),
        architecture=fields.text("architecture", max_length=MAX_NAME, pattern=_NAME),
        report=fields.base64("report", max_size=MAX_REPORT_BYTES),
        certificates=certificates.encode("ascii"),
    )
    fields.end()
    return gpu


def _state(fields: Fields, name: str) -> bool | None:
    return None if fields.raw(name) is None else fields.boolean(name)


def _said(fields: Fields, name: str) -> str | None:
    if fields.raw(name) is None:
        return None
    text = fields.text(name, max_length=MAX_TEXT, pattern=_PRINTABLE)
    if not text:
        raise FormatError(f"{fields.where}: {name!r} is empty; expected text or null")
    return text
