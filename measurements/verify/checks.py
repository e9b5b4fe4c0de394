"""The checks one by one; ``measurements.verify`` lists them and says what each proves.

A check returns what it found, or raises: a MeasurementError fails it, NothingToCheckError skips it.
"""

from __future__ import annotations

from collections.abc import Iterable

from measurements import attestation_key, envelope, policy
from measurements.errors import FormatError, SignatureError, VerificationError
from measurements.events import RegisterPrediction
from measurements.evidence import Evidence, parse_quote, parse_signature, parse_userspace_log
from measurements.evidence import parse as parse_evidence
from measurements.evidence.tpm import digest_of_registers, verify_signature
from measurements.explain import observe
from measurements.formats import eventlog
from measurements.gpu.evidence import qualifying_data as bound_to
from measurements.moments import format_time
from measurements.prediction import Prediction
from measurements.profile.compose import extended
from measurements.replay import Severity, replay
from measurements.verify.state import (
    STRONG_BANKS,
    TELLING,
    CheckedQuote,
    DocumentState,
    NothingToCheckError,
    State,
    sourced,
)
from measurements.verify.verdict import Status

Outcome = tuple[Status, str]


def _ok(detail: str) -> Outcome:
    return Status.OK, detail


def signatures(state: DocumentState) -> Outcome:
    """1: enough trusted keys signed the envelope."""
    state.payload = envelope.verify_envelope(state.envelope, state.policy.signers, state.policy.threshold)
    return _ok(f"signed by {', '.join(state.payload.key_ids)}")


def document(state: DocumentState) -> Outcome:
    """2: the signed bytes are a golden document; the policy's profiles compose with its image layer."""
    parsed = envelope.parse_statement(state.need(state.payload, "signed bytes"))
    state.document = extended(parsed, state.policy.profiles)
    image = parsed.image
    more = "".join(
        f", and {len(profile.names)} of the verifier's profile {profile.name}"
        for profile in state.policy.profiles
    )
    return _ok(
        f"{image.name} {image.version}, SVN {image.svn}, {len(parsed.predictions)} launch shapes{more}"
    )


def validity(state: DocumentState) -> Outcome:
    """3: the document is about the wanted image, valid now, and not below the SVN floor."""
    found = state.need(state.document, "the document")
    wanted = state.policy.image
    if wanted is not None and found.image.name != wanted:
        raise VerificationError(
            f"the document is about image {found.image.name!r}; the policy wants {wanted!r}"
        )
    if found.image.svn < state.policy.minimum_svn:
        raise VerificationError(
            f"SVN {found.image.svn} is below the floor {state.policy.minimum_svn}: "
            "this version is no longer trusted"
        )
    period = f"{format_time(found.validity.not_before)} to {format_time(found.validity.not_after)}"
    now = state.policy.now
    if now is None:
        return Status.UNPROVEN, f"the policy gives no time; the document is valid from {period}"
    if not found.validity.contains(now):
        raise VerificationError(f"the document is valid from {period}, not at {now.isoformat()}")
    return _ok(f"valid from {period}, SVN {found.image.svn}")


def evidence(state: State) -> Outcome:
    """4: the evidence file parses."""
    state.evidence = parse_evidence(state.evidence_bytes)
    return _ok(f"quotes in {', '.join(quote.bank for quote in state.evidence.quotes)}")


def nonce(state: State) -> Outcome:
    """5: the evidence answers this verifier's nonce."""
    found = state.need(state.evidence, "the evidence").nonce
    wanted = state.policy.nonce
    if isinstance(wanted, policy.Unproven):
        return Status.UNPROVEN, f"freshness is not proven, the evidence may be a replay: {wanted.reason}"
    if found != wanted.value:
        raise VerificationError(
            f"nonce is {found.hex()}; expected {wanted.value.hex()}: another or an old answer"
        )
    return _ok(found.hex())


def key_trust(state: State) -> Outcome:
    """6: the quote's key lives in a TPM that the policy trusts."""
    found = state.need(state.evidence, "the evidence")
    state.key = attestation_key.load_attestation_key(found.attestation_key)
    demand = state.policy.attestation_key
    if isinstance(demand, policy.Unproven):
        return Status.UNPROVEN, f"anyone may have made this quote, in software too: {demand.reason}"
    if isinstance(demand, policy.PinnedKey):
        if not attestation_key.same_key(state.key, demand.key):
            raise SignatureError("the quote's key is not the pinned attestation key")
        return _ok("the pinned attestation key")
    chain = [item for pem in found.certificates for item in attestation_key.load_certificates(pem)]
    root = attestation_key.check_chain(state.key, chain, demand.roots, demand.now)
    return _ok(f"certified under {root.subject.rfc4514_string()[:120]!r}")


def quote_signatures(state: State) -> Outcome:
    """7: every quote is a TPM's own statement (magic, type), signed by the attestation key."""
    found = state.need(state.evidence, "the evidence")
    key = state.key
    if key is None:
        raise NothingToCheckError("needs the attestation key, which an earlier check did not establish")
    quotes = {}
    for item in found.quotes:
        try:
            signature = parse_signature(item.signature)
            verify_signature(key, signature, item.attest)
            quotes[item.bank] = CheckedQuote(quote=parse_quote(item.attest), signature=signature)
        except (FormatError, SignatureError) as error:
            raise type(error)(f"{item.bank} bank: {error}") from None
    state.quotes = quotes
    return _ok(f"{len(quotes)} quotes")


def qualifying_data(state: State) -> Outcome:
    """8: every quote carries the nonce, and where there is a GPU part, a digest of it and the nonce."""
    quotes = state.need(state.quotes, "the quotes")
    evidence = state.need(state.evidence, "the evidence")
    demand = state.policy.nonce
    nonce = demand.value if isinstance(demand, policy.ExpectedNonce) else evidence.nonce
    wanted = bound_to(nonce, evidence.gpu)
    what = "nonce" if evidence.gpu is None else "nonce and GPU part"
    for bank, item in quotes.items():
        found = item.quote.extra_data
        if found != wanted:
            raise VerificationError(
                f"the {bank} quote was made for {what} {found.hex() or 'empty'}, not for {wanted.hex()}"
                + _of_another_part(found, nonce, evidence)
            )
    state.bound = True
    return _ok(f"every quote carries the {what}")


def _of_another_part(found: bytes, nonce: bytes, evidence: Evidence) -> str:
    if evidence.gpu is not None and found == nonce:
        return ": the GPU part was added to it, the quote knows of none"
    if evidence.gpu is not None:
        return ": another or an old answer, or its GPU part is of another"
    return ": another or an old answer, or its GPU part was taken away"


def selection(state: State) -> Outcome:
    """9: every quote covers its bank, every pinned register, and exactly the values handed in."""
    quotes = state.need(state.quotes, "the quotes")
    pinned = state.pinned()
    if not pinned:
        raise VerificationError("the policy and the document pin no register at all")
    if not set(state.banks()) & set(STRONG_BANKS):
        raise VerificationError(
            "no quote in a SHA-256 or SHA-384 bank that the document predicts; "
            f"the document has {', '.join(state.need(state.document, 'the document').banks)}"
        )
    for bank, item in quotes.items():
        chosen = item.quote.selections
        if len(chosen) != 1 or chosen[0].bank is not bank:
            banks = ", ".join(part.bank for part in chosen) or "nothing"
            raise VerificationError(
                f"the quote of bank {bank} is over {banks}; expected this bank and no other"
            )
        covered = chosen[0].registers
        if covered != set(state.observed(bank)):
            raise VerificationError(
                f"the {bank} quote covers PCR {_list(covered)}, the evidence gives values of "
                f"PCR {_list(state.observed(bank))}"
            )
        if not pinned <= covered:
            raise VerificationError(f"the {bank} quote leaves out the pinned PCR {_list(pinned - covered)}")
    return _ok(f"every quote covers PCR {_list(pinned)}")


def pcr_digest(state: State) -> Outcome:
    """10: the values handed in are the quoted ones."""
    quotes = state.need(state.quotes, "the quotes")
    for bank, item in quotes.items():
        actual = digest_of_registers(dict(state.observed(bank)), item.signature.hash)
        if actual != item.quote.pcr_digest:
            raise VerificationError(
                f"the {bank} values hash to {actual.hex()}, the quote says {item.quote.pcr_digest.hex()}"
            )
    return _ok("the values hash to each quote's digest")


def event_log(state: State) -> Outcome:
    """11: the logs tell how the quoted values came about."""
    found = state.need(state.evidence, "the evidence")
    log = eventlog.parse(found.event_log)
    state.observation = observe(log, parse_userspace_log(found.userspace_log or b""))
    pinned = state.pinned()
    for bank in state.banks():
        if bank not in state.observation.banks:
            raise VerificationError(f"the event log has no {bank} digests, though that bank is quoted")
        wrong = [
            index
            for index in sorted(pinned & set(state.observed(bank)))
            if state.observation.fold(index, bank) != state.observed(bank)[index]
        ]
        if wrong:
            raise VerificationError(
                f"in {bank} the logs do not fold to the quoted PCR {_list(wrong)}: an event was left out of "
                "the log, added to it, or changed in it"
            )
    lies = [
        item for item in replay(log).findings if item.severity is Severity.ERROR and item.register in pinned
    ]
    if lies:
        raise VerificationError(
            f"the event log contradicts itself in PCR {lies[0].register}: {lies[0].message}"
        )
    return _ok(f"{len(state.observation.events)} events fold to the quoted registers")


def shape(state: State) -> Outcome:
    """12: a launch shape of the document explains the machine."""
    state.banks()
    document = state.need(state.document, "the document")
    wanted = state.policy.shape
    if wanted is not None:
        state.chosen = document.prediction(wanted)
        if state.policy.secure_boot and not state.chosen.shape.secure_boot:
            raise VerificationError(f"{wanted} is a launch without Secure Boot; the policy wants it on")
        return _ok(f"{sourced(state.chosen.shape.name, state.policy.profiles)}, named by the policy")
    candidates = [
        item for item in document.predictions if item.shape.secure_boot or not state.policy.secure_boot
    ]
    if not candidates:
        raise VerificationError(
            "the document has no launch shape with Secure Boot on, which the policy wants: the release is not sealed"
        )
    fitting = [
        item
        for item in candidates
        if all(state.fits(register) for register in item.registers if state.pins(register))
    ]
    if not fitting:
        state.chosen = max(candidates, key=lambda item: _closeness(state, item))
        raise VerificationError(
            f"no launch shape fits; the nearest is {state.chosen.shape.name}, compared below"
        )
    state.chosen = fitting[0]
    others = ", ".join(item.shape.name for item in fitting[1:])
    note = f" (its pinned registers are also those of {others})" if others else ""
    return _ok(sourced(state.chosen.shape.name, state.policy.profiles) + note)


def _closeness(state: State, prediction: Prediction) -> tuple[int, int]:
    """Order shapes: most pinned registers equal, then most logged events predicted."""
    pinned = [register for register in prediction.registers if state.pins(register)]
    equal = sum(state.fits(register) for register in pinned)
    if state.observation is None or not state.banks():
        return equal, 0
    bank = state.banks()[-1]
    common = 0
    for register in pinned:
        seen = {event.digests.get(bank) for event in state.observation.of(register.index)}
        common += len(
            seen & {event.digest(bank) for sequence in register.alternatives for event in sequence.events}
        )
    return equal, common


def registers(state: State) -> Outcome:
    """13: every pinned register has an acceptable value, by one alternative in all banks."""
    chosen = state.need(state.chosen, "a launch shape")
    banks = state.banks()
    if not set(banks) & set(STRONG_BANKS):
        raise VerificationError("no SHA-256 or SHA-384 bank to compare in")
    pinned = [register for register in chosen.registers if state.pins(register)]
    if not pinned:
        raise VerificationError("the launch shape pins no register")
    wrong = [register for register in pinned if not state.fits(register)]
    if wrong:
        raise VerificationError(f"PCR {_list(item.index for item in wrong)} differ; {lead(state, wrong)}")
    left_out = [
        register.index
        for register in chosen.registers
        if not state.pins(register) and register.stability in policy.ALL_PINNED
    ]
    note = f"; the policy leaves out PCR {_list(left_out)}" if left_out else ""
    return _ok(f"PCR {_list(item.index for item in pinned)} equal in {', '.join(banks)}{note}")


def events(state: State) -> Outcome:
    """14: no event in a pinned register that the prediction does not have, none missing, in this order."""
    chosen = state.need(state.chosen, "a launch shape")
    state.need(state.observation, "an event log")
    pinned = [register for register in chosen.registers if state.pins(register)]
    banks = [bank for bank in state.banks() if bank in STRONG_BANKS]
    wrong = [item for item in pinned if any(state.explanations(item, bank) for bank in banks)]
    if wrong or not pinned or not banks:
        raise VerificationError(lead(state, wrong) if wrong else "there is nothing to compare")
    return _ok("the logged events are the predicted ones")


def lead(state: State, wrong: list[RegisterPrediction]) -> str:
    """Return the explanation that names the guilty part best."""
    by_index = {register.index: register for register in wrong}
    order = [index for index in TELLING if index in by_index]
    for index in order:
        text = reason(state, by_index[index])
        if text is not None:
            return f"PCR {index}: {text}"
    return "the logs do not say why"


def reason(state: State, register: RegisterPrediction) -> str | None:
    """Return why a register departs from its prediction, by the first event that does."""
    for bank in state.banks():
        if bank in STRONG_BANKS:
            found = state.explanations(register, bank)
            if found:
                return found[0].text
    return None


def _list(indexes: Iterable[int]) -> str:
    return ", ".join(str(index) for index in sorted(indexes)) or "none"
