"""Verify evidence against a signed golden document: sixteen checks, in this order, fail closed.

 1. document signatures   at least ``threshold`` trusted keys signed the envelope
 2. document              the signed bytes are a golden document, strictly parsed and refolded
 3. validity              it is about the wanted image, valid now, its SVN not below the floor
 4. evidence              the evidence file parses within its limits
 5. nonce                 it answers the nonce of this verifier
 6. attestation key       the quote's key is the pinned one, or certified under a trusted root
 7. quote signatures      each quote has TPM_GENERATED_VALUE and type quote, and the key signed it
 8. qualifying data       each quote carries the nonce, and binds the GPU part to it
 9. PCR selection         each quote covers every pinned register, and the values handed in
10. PCR digest            the values handed in hash to the quoted digest
11. event log             firmware's and userspace's logs fold to the quoted values
12. launch shape          one shape of the document explains the machine
13. registers             every pinned register has an acceptable value, in all shared banks
14. events                the logs hold the predicted events, no other, in their order
15. GPU evidence          there is a GPU part where the image expects a GPU, and only there
16. GPUs                  every GPU is what the image expects (``measurements.gpu.appraise``, fourteen checks)

Nothing passes by silence: a check that cannot run is skipped, and a skipped check fails the verdict. What a
policy leaves ``Unproven`` passes and is a warning.
"""

from __future__ import annotations

from collections.abc import Callable

from measurements.errors import MeasurementError
from measurements.verify import checks, gpu
from measurements.verify.state import NothingToCheckError, State
from measurements.verify.verdict import Check, RegisterVerdict, Status, Verdict, to_json

from measurements.policy import Policy  # isort: skip

__all__ = ["CHECKS", "Check", "RegisterVerdict", "Status", "Verdict", "to_json", "verify"]

CHECKS: tuple[tuple[str, Callable[[State], checks.Outcome]], ...] = (
    ("document signatures", checks.signatures),
    ("document", checks.document),
    ("validity", checks.validity),
    ("evidence", checks.evidence),
    ("nonce", checks.nonce),
    ("attestation key", checks.key_trust),
    ("quote signatures", checks.quote_signatures),
    ("qualifying data", checks.qualifying_data),
    ("PCR selection", checks.selection),
    ("PCR digest", checks.pcr_digest),
    ("event log", checks.event_log),
    ("launch shape", checks.shape),
    ("registers", checks.registers),
    ("events", checks.events),
    ("GPU evidence", gpu.gpu_evidence),
    ("GPUs", gpu.gpus),
)


def verify(envelope: bytes, evidence: bytes, policy: Policy) -> Verdict:
    """Run every check on a signed golden document (DSSE) and an evidence file.

    Never raises for what the two inputs hold: whatever is wrong with them is in the verdict.
    """
    state = State(envelope, evidence, policy)
    results = []
    for number, (name, check) in enumerate(CHECKS, 1):
        try:
            status, detail = check(state)
        except NothingToCheckError as error:
            status, detail = Status.SKIPPED, str(error)
        except MeasurementError as error:
            status, detail = Status.FAILED, str(error)
        results.append(Check(number=number, name=name, status=status, detail=detail))
    return Verdict(
        checks=tuple(results),
        registers=_registers(state),
        shape=None if state.chosen is None else state.chosen.shape.name,
        gpu=gpu.gpu_verdict(state),
    )


def _registers(state: State) -> tuple[RegisterVerdict, ...]:
    if state.chosen is None or state.evidence is None:
        return ()
    result = []
    for bank in state.banks():
        observed = state.observed(bank)
        for register in state.chosen.registers:
            value = observed.get(register.index)
            predicted = tuple(item.hex() for item in register.values(bank))
            equal = value is not None and value.hex() in predicted
            pinned = state.pins(register)
            reason = register.reason
            if pinned and not equal:
                reason = checks.reason(state, register) or "the logs do not say why"
            elif not pinned and reason is None:
                reason = f"the policy leaves out registers of kind {register.stability.value}"
            result.append(
                RegisterVerdict(
                    bank=bank,
                    index=register.index,
                    predicted=predicted,
                    observed=None if value is None else value.hex(),
                    equal=equal,
                    pinned=pinned,
                    reason=reason,
                )
            )
    return tuple(result)
