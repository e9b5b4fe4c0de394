"""What every verification of a confidential launch shares: the demands on the golden document, and how checks run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from measurements.envelope import VerifiedPayload
from measurements.errors import FormatError, MeasurementError, VerificationError
from measurements.golden import GoldenDocument
from measurements.keys import PublicKey
from measurements.policy import Unproven
from measurements.profile.model import PlatformProfile
from measurements.verify import checks
from measurements.verify.state import NothingToCheckError
from measurements.verify.verdict import Check, Status, Verdict, predicted_to_json, to_json


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_T = TypeVar("_T")
_S = TypeVar("_S")
_N = TypeVar("_N", bound=_Named)

#: What a check answers; it raises NothingToCheckError to be skipped, another MeasurementError to fail.
Outcome = tuple[Status, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePolicy:
    """Which golden documents are believed, and as of when.

    Attributes:
        signers: keys that may sign golden documents.
        threshold: how many of them must have signed.
        now: the moment, with a time zone, at which the document and every certificate must be valid.
        minimum_svn: the lowest security version number that is still trusted.
        image: name of the image; ``None`` accepts every image that the signers sign.
        shape: name of the launch; ``None`` chooses the one that fits.
        profiles: launches that the verifier accepts beside the document's, as in ``measurements.policy.Policy``.
        gpu: why the GPUs are not judged that an image expects: no CPU's report says anything about them. ``None``
            refuses every document that expects some.
    """

    signers: tuple[PublicKey, ...]
    threshold: int
    now: datetime
    minimum_svn: int
    image: str | None = None
    shape: str | None = None
    profiles: tuple[PlatformProfile, ...] = ()
    gpu: Unproven | None = None

    def __post_init__(self) -> None:
        if self.now.utcoffset() is None:
            raise FormatError("policy: 'now' has no time zone")


@dataclass(slots=True)
class ReleaseState:
    """A golden document on its way through the first three checks."""

    envelope: bytes
    policy: ReleasePolicy
    payload: VerifiedPayload | None = None
    document: GoldenDocument | None = None

    def need(self, value: _T | None, what: str) -> _T:
        """Return ``value``; NothingToCheckError when the check that gives it failed."""
        if value is None:
            raise NothingToCheckError(f"needs {what}, which an earlier check did not establish")
        return value

    def launches(self, of: Callable[[GoldenDocument], Sequence[_N]], what: str) -> tuple[_N, ...]:
        """Return the launches of one kind that may apply: the one that the policy names, or all.

        Raises:
            FormatError: the document has none, or not the one that the policy names.
        """
        document = self.need(self.document, "the document")
        found = of(document)
        if not found:
            raise FormatError(
                f"the document has no {what}; {document.image.name} {document.image.version} was not released for any"
            )
        if self.policy.shape is None:
            return tuple(found)
        named = tuple(item for item in found if item.name == self.policy.shape)
        if not named:
            known = ", ".join(item.name for item in found)
            raise FormatError(f"the document has no {what} {self.policy.shape!r}; it has {known}")
        return named


def gpus(state: ReleaseState) -> Outcome:
    """Check that the image expects no GPU, or that the policy says why none is judged."""
    wanted = state.need(state.document, "the document").gpu
    if wanted is None:
        return Status.OK, "the image expects none"
    demand = state.policy.gpu
    if demand is None:
        raise VerificationError(
            f"the image expects {wanted.count} GPUs, of which a CPU's report says nothing: judge the machine's "
            "evidence, whose quotes bind theirs, and say here that it is done elsewhere"
        )
    return Status.UNPROVEN, f"NO GPU IS JUDGED, though the image expects {wanted.count}: {demand.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueVerdict:
    """One measured value of a launch.

    Attributes:
        name: ``launch_digest``, ``mrtd``, ``rtmr0`` …
        predicted: every acceptable value in hex, the usual one first; empty where there is none.
        observed: what the hardware reports, in hex.
        equal: whether the observed value is an acceptable one.
        pinned: whether the verdict depends on it.
        reason: why it differs, or why it is not pinned; ``None`` when there is nothing to say.
    """

    name: str
    predicted: tuple[str, ...]
    observed: str
    equal: bool
    pinned: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchVerdict(Verdict):
    """The result for a confidential launch; ``shape`` is the launch that was compared with.

    Attributes:
        values: measured values; empty when document or evidence did not parse.
    """

    values: tuple[ValueVerdict, ...] = ()


def launch_to_json(verdict: LaunchVerdict) -> dict[str, Any]:
    """Return the object that ``goldsmith verify --json`` prints for a report or quote; values stand by name."""
    told: dict[str, Any] = to_json(verdict)
    registers: Mapping[str, Any] = {
        value.name: {
            "predicted": predicted_to_json(value.predicted),
            "observed": value.observed,
            "equal": value.equal,
            "pinned": value.pinned,
            "reason": value.reason,
        }
        for value in verdict.values
    }
    return told | {"registers": registers}


def run_checks(checks: Iterable[tuple[str, Callable[[_S], Outcome]]], state: _S) -> list[Check]:
    """Make every check in order and note how it ended; nothing that evidence holds raises."""
    results: list[Check] = []
    for name, check in checks:
        try:
            status, detail = check(state)
        except NothingToCheckError as error:
            status, detail = Status.SKIPPED, str(error)
        except MeasurementError as error:
            status, detail = Status.FAILED, str(error)
        results.append(Check(number=len(results) + 1, name=name, status=status, detail=detail))
    return results


def joined(*parts: Iterable[Check]) -> tuple[Check, ...]:
    """Return the checks of several parts as one numbered list."""
    return tuple(
        replace(check, number=number)
        for number, check in enumerate((check for part in parts for check in part), start=1)
    )


#: The checks that every verification of a confidential launch begins with, and the one that it ends with.
DOCUMENT: Final[tuple[tuple[str, Callable[[ReleaseState], Outcome]], ...]] = (
    ("document signatures", checks.signatures),
    ("document", checks.document),
    ("validity", checks.validity),
)
GPUS: Final[tuple[tuple[str, Callable[[ReleaseState], Outcome]], ...]] = (("GPUs", gpus),)
