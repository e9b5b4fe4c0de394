"""What the checks have established so far; whoever asks for more than that is skipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar

from measurements.envelope import VerifiedPayload
from measurements.errors import MeasurementError
from measurements.events import Digest, HashAlgorithm, RegisterPrediction
from measurements.evidence import AttestationPublicKey, Evidence, Quote, QuoteSignature
from measurements.explain import Explanation, Observation, explain
from measurements.golden import GoldenDocument
from measurements.gpu.appraise import Appraisal
from measurements.gpu.evidence import GpuEvidence
from measurements.keys import PublicKey
from measurements.policy import Policy
from measurements.prediction import Prediction
from measurements.profile.model import PlatformProfile

_T = TypeVar("_T")

#: Banks that decide; SHA-1 is compared where it is there, and never suffices.
STRONG_BANKS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384)

#: Registers whose explanation names the guilty part best, most telling first.
TELLING = (11, 12, 13, 9, 7, 5, 4, 0, 1, 2, 3, 6, 8, 14, 15)


class NothingToCheckError(MeasurementError):
    """An earlier check did not establish what this one needs."""


class DocumentDemands(Protocol):
    """What a policy demands of a golden document, whatever the evidence is."""

    @property
    def signers(self) -> tuple[PublicKey, ...]: ...  # noqa: D102
    @property
    def threshold(self) -> int: ...  # noqa: D102
    @property
    def now(self) -> datetime | None: ...  # noqa: D102
    @property
    def minimum_svn(self) -> int: ...  # noqa: D102
    @property
    def image(self) -> str | None: ...  # noqa: D102
    @property
    def profiles(self) -> tuple[PlatformProfile, ...]: ...  # noqa: D102


class DocumentState(Protocol):
    """What the checks of the golden document look at and set."""

    payload: VerifiedPayload | None
    document: GoldenDocument | None

    @property
    def envelope(self) -> bytes: ...  # noqa: D102
    @property
    def policy(self) -> DocumentDemands: ...  # noqa: D102

    def need(self, value: _T | None, what: str) -> _T: ...  # noqa: D102


def sourced(launch: str, profiles: tuple[PlatformProfile, ...]) -> str:
    """Return a launch's name, and the profile that vouches for its firmware where the document does not."""
    vouching = next((each.name for each in profiles if launch in each.names), None)
    return launch if vouching is None else f"{launch}, by the verifier's profile {vouching}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedQuote:
    """One quote whose structure and signature hold."""

    quote: Quote
    signature: QuoteSignature


@dataclass(slots=True)
class State:
    """The inputs, and what became of them. Fields are set by one check each, in order."""

    envelope: bytes
    evidence_bytes: bytes
    policy: Policy
    payload: VerifiedPayload | None = None
    document: GoldenDocument | None = None
    evidence: Evidence | None = None
    key: AttestationPublicKey | None = None
    quotes: Mapping[HashAlgorithm, CheckedQuote] | None = None
    bound: bool | None = None
    observation: Observation | None = None
    chosen: Prediction | None = None
    gpu: GpuEvidence | None = None
    appraisal: Appraisal | None = None
    _explanations: dict[tuple[int, HashAlgorithm], tuple[Explanation, ...]] = field(default_factory=dict)

    def need(self, value: _T | None, what: str) -> _T:
        """Return ``value``; NothingToCheckError when the check that gives it failed."""
        if value is None:
            raise NothingToCheckError(f"needs {what}, which an earlier check did not establish")
        return value

    def banks(self) -> tuple[HashAlgorithm, ...]:
        """Return the banks that the document predicts and the evidence quotes."""
        document = self.need(self.document, "the document")
        evidence = self.need(self.evidence, "the evidence")
        quoted = {quote.bank for quote in evidence.quotes}
        return tuple(bank for bank in document.banks if bank in quoted)

    def observed(self, bank: HashAlgorithm) -> Mapping[int, Digest]:
        """Return the values that the evidence claims; check 10 proves them."""
        evidence = self.need(self.evidence, "the evidence")
        return next(quote.registers for quote in evidence.quotes if quote.bank is bank)

    def candidates(self) -> tuple[Prediction, ...]:
        """Return the predictions that may apply: the policy's shape, or all."""
        document = self.need(self.document, "the document")
        named = tuple(item for item in document.predictions if item.shape.name == self.policy.shape)
        return named or document.predictions

    def pins(self, register: RegisterPrediction) -> bool:
        """Say whether the policy demands that this register is equal."""
        return register.stability in self.policy.pin

    def pinned(self) -> frozenset[int]:
        """Return the indexes that some candidate pins: before a shape is chosen, all of them must hold."""
        predictions = self.candidates() if self.chosen is None else (self.chosen,)
        return frozenset(
            register.index for item in predictions for register in item.registers if self.pins(register)
        )

    def fits(self, register: RegisterPrediction) -> bool:
        """Say whether one alternative explains the register's value in every shared bank at once."""
        banks = self.banks()
        return bool(banks) and any(
            all(sequence.value(bank) == self.observed(bank).get(register.index) for bank in banks)
            for sequence in register.alternatives
        )

    def explanations(self, register: RegisterPrediction, bank: HashAlgorithm) -> tuple[Explanation, ...]:
        """Return how the logged events depart from the prediction; empty without a log."""
        if self.observation is None:
            return ()
        key = (register.index, bank)
        if key not in self._explanations:
            self._explanations[key] = explain(register, self.observation.of(register.index), bank)
        return self._explanations[key]
