"""The checks of GPUs, after those of the machine that says what its GPUs say.

What a machine says of its GPUs is believed once its registers are: the quotes bind the GPU evidence to the nonce, the
registers bind the software that collected it to the image (docs/evidence-service.md, "GPUs").
"""

from __future__ import annotations

from typing import Any

from measurements.errors import VerificationError
from measurements.gpu.appraise import appraise
from measurements.gpu.appraise import to_json as appraisal_to_json
from measurements.gpu.evidence import GpuEvidence, gpu_nonce, parse
from measurements.gpu.expectations import GpuExpectations
from measurements.policy import ExpectedNonce, Unproven
from measurements.verify.state import State
from measurements.verify.verdict import GpuVerdict, Status

Outcome = tuple[Status, str]

_NONE = "the image is for machines without a GPU"


def gpu_evidence(state: State) -> Outcome:
    """15: the evidence has a GPU part where the image expects a GPU, and only there; the quotes bind it."""
    wanted = state.need(state.document, "the document").gpu
    found = state.need(state.evidence, "the evidence").gpu
    state.need(state.bound, "quotes that carry nonce and GPU part")
    if wanted is None:
        if found is not None:
            raise VerificationError(f"{_NONE}, and the evidence has a GPU part")
        return Status.OK, _NONE
    if found is None:
        if isinstance(state.policy.gpu, Unproven):
            return Status.UNPROVEN, f"it has no GPU part, which nobody looks at: {state.policy.gpu.reason}"
        raise VerificationError(
            f"the image expects {_words(wanted)}, and the evidence has no GPU part: dropped on the way, or the machine "
            "has none"
        )
    state.gpu = parse(found)
    return Status.OK, f"{len(state.gpu.gpus)} GPUs, bound to the nonce by every quote"


def gpus(state: State) -> Outcome:
    """16: every GPU is what the image expects, by reference values that it pins, and its gate agrees."""
    wanted = state.need(state.document, "the document").gpu
    demand = state.policy.gpu
    if wanted is None:
        return Status.OK, _NONE
    if isinstance(demand, Unproven):
        return Status.UNPROVEN, (
            f"NO GPU IS JUDGED, though the image expects {_words(wanted)}: {demand.reason}; {_said(state.gpu)}"
        )
    found = state.need(state.gpu, "a GPU part of the evidence")
    if demand is None:
        raise VerificationError(
            f"the image expects {_words(wanted)}, and the policy has nothing to judge it with: reference values (RIMs)"
        )
    nonce = state.policy.nonce
    asked = nonce.value if isinstance(nonce, ExpectedNonce) else state.need(state.evidence, "evidence").nonce
    state.appraisal = appraise(found, wanted, demand.rims, nonce=gpu_nonce(asked), policy=demand.appraisal)
    if not state.appraisal.passed:
        raise VerificationError("; ".join(state.appraisal.failures))
    text = f"{_words(wanted)}: {len(state.appraisal.checks)} checks hold"
    if state.appraisal.warnings:
        return Status.UNPROVEN, "; ".join([text, *state.appraisal.warnings])
    return Status.OK, text


def gpu_verdict(state: State) -> GpuVerdict | None:
    """Return what the verdict says of GPUs; ``None`` where the evidence has no GPU part that parses."""
    return None if state.gpu is None else GpuVerdict(evidence=state.gpu, appraisal=state.appraisal)


def to_json(verdict: GpuVerdict | None) -> dict[str, Any] | None:
    """Return the object that ``goldsmith verify --json`` and ``goldsmith boot --json`` have as ``gpu``."""
    if verdict is None:
        return None
    said = verdict.evidence
    return {
        "gate": {
            "ready": said.gate.ready,
            "reason": said.gate.reason,
            "steps": [{"name": step.name, "ok": step.ok, "detail": step.detail} for step in said.gate.steps],
        },
        "driver_version": said.driver_version,
        "confidential_mode": said.confidential_mode,
        "developer_tools": said.developer_tools,
        "ready": said.ready,
        "nvswitches": said.nvswitches,
        "error": said.error,
        "appraisal": None if verdict.appraisal is None else appraisal_to_json(verdict.appraisal),
    }


def _words(wanted: GpuExpectations) -> str:
    return f"{wanted.count} {wanted.architecture} {'GPU' if wanted.count == 1 else 'GPUs'}"


def _said(found: GpuEvidence | None) -> str:
    if found is None:
        return "the machine says nothing of them"
    if not found.gate.ready:
        return f"the machine says that its gate refused: {found.gate.reason}"
    return "the machine says that its gate found them in order"
