"""Two layers into reference values, and launches into a profile: ``compose(layer, profile_of(…)) == …``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from measurements.errors import FormatError, PredictionError
from measurements.events import HashAlgorithm, RegisterPrediction
from measurements.golden.model import GoldenDocument, banks_of
from measurements.golden.sev_snp import SevSnpReference, Step
from measurements.golden.tdx import BANKS as TDX_BANKS
from measurements.golden.tdx import TdxReference
from measurements.image_layer import ImageLayer
from measurements.prediction import Prediction
from measurements.profile.model import (
    PCRS,
    RTMRS,
    HashesPage,
    PlatformProfile,
    SevSnpTemplate,
    TdxTemplate,
    TpmTemplate,
    page_of,
)
from measurements.profile.template import RegisterTemplate, cut
from measurements.snp.hashes import TABLE_SIZE, KernelHashes
from measurements.snp.pages import PAGE_SIZE, PageType


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """What an image measures in the launches of a profile; as in a golden document."""

    predictions: tuple[Prediction, ...]
    sev_snp: tuple[SevSnpReference, ...]
    tdx: tuple[TdxReference, ...]


def compose(layer: ImageLayer, profile: PlatformProfile) -> Composition:
    """Fill the slots of a profile with the events of an image.

    The image layer is believed as far as its signer is, the profile as far as its author is; nothing of either may
    come from the guest.

    Raises:
        PredictionError: the profile lacks a PCR bank of the image layer, or the image an event that a slot needs.
    """
    banks = layer.banks
    if profile.tpm and not set(banks) <= set(profile.banks):
        raise PredictionError(
            f"profile {profile.name!r} has the banks {', '.join(profile.banks)}; the image layer needs "
            f"{', '.join(banks)}"
        )
    if profile.tdx and not set(TDX_BANKS) <= set(banks):
        raise PredictionError(f"the image layer has the banks {', '.join(banks)}; trust domains need SHA-384")
    try:
        return Composition(
            predictions=tuple(template.fill(layer, banks) for template in profile.tpm),
            sev_snp=tuple(template.fill(layer) for template in profile.sev_snp),
            tdx=tuple(template.fill(layer) for template in profile.tdx),
        )
    except PredictionError as error:
        raise PredictionError(f"profile {profile.name!r}: {error}") from error


def extended(document: GoldenDocument, profiles: Iterable[PlatformProfile]) -> GoldenDocument:
    """Return the document with the launches of profiles beside its own: what a verifier who has them compares with.

    Raises:
        PredictionError: the document has no image layer, or as ``compose``.
        FormatError: a profile has a launch whose name stands for another one.
        LimitError: more launches than a document holds.
    """
    for profile in profiles:
        if document.image_layer is None:
            raise PredictionError(
                f"profile {profile.name!r}: the document has no image layer to compose it with; it is of a goldsmith "
                "that wrote none: build the release anew"
            )
        more = compose(document.image_layer, profile)
        known = set(document.launch_names)
        if taken := sorted(known & set(profile.names)):
            raise FormatError(
                f"profile {profile.name!r}: the name {taken[0]!r} stands for a launch of the document or of another "
                "profile; firmware that changed needs a name of its own"
            )
        predictions = [*document.predictions, *more.predictions]
        platforms = list(dict.fromkeys(each.shape.platform for each in predictions))
        document = replace(
            document,
            predictions=tuple(sorted(predictions, key=lambda each: platforms.index(each.shape.platform))),
            sev_snp=(*document.sev_snp, *more.sev_snp),
            tdx=(*document.tdx, *more.tdx),
        )
    return document


def profile_of(
    layer: ImageLayer,
    *,
    name: str,
    predictions: Iterable[Prediction] = (),
    sev_snp: Iterable[SevSnpReference] = (),
    tdx: Iterable[TdxReference] = (),
) -> PlatformProfile:
    """Cut an image out of its launches; what remains holds for any image.

    Raises:
        FormatError: a launch does not bind the image of ``layer``, or lacks a register of the firmware's.
    """
    shapes = tuple(predictions)
    templates = tuple(
        TpmTemplate(shape=each.shape, registers=_cut(each.registers, layer, PCRS)) for each in shapes
    )
    return PlatformProfile(
        name=name,
        banks=_banks(shapes) or layer.banks,
        tpm=templates,
        sev_snp=tuple(cut_sev_snp(each, layer.kernel_hashes) for each in sev_snp),
        tdx=tuple(
            TdxTemplate(
                launch=replace(each, registers=()),
                registers=_cut(each.registers, layer, RTMRS),
            )
            for each in tdx
        ),
    )


def _banks(predictions: tuple[Prediction, ...]) -> tuple[HashAlgorithm, ...]:
    return banks_of(predictions) if predictions else ()


def _cut(
    registers: Iterable[RegisterPrediction], layer: ImageLayer, indexes: tuple[int, ...]
) -> tuple[RegisterTemplate, ...]:
    return tuple(cut(register, layer) for register in registers if register.index in indexes)


def cut_sev_snp(reference: SevSnpReference, hashes: KernelHashes | None) -> SevSnpTemplate:
    """Cut an image out of an SEV-SNP launch, ``None`` where the launch binds none.

    Raises:
        FormatError: a launch with ``-kernel`` does not bind this image.
    """
    for position, step in enumerate(reference.steps):
        offset = None if hashes is None else _table_offset(step, hashes)
        if offset is not None:
            page = HashesPage(position=position, address=step.address, offset=offset, cause=step.cause)
            steps = (*reference.steps[:position], *reference.steps[position + 1 :])
            return SevSnpTemplate(launch=replace(reference, steps=steps), hashes=page)
    return SevSnpTemplate(launch=reference, hashes=None)


def _table_offset(step: Step, hashes: KernelHashes) -> int | None:
    """Return where in this page the kernel hashes of the image lie; ``None`` for any other page."""
    if step.type is not PageType.NORMAL:
        return None
    # The firmware's tables say it (measurements.snp.image), a launch's steps only show the page's digest.
    return _offsets(hashes).get(step.contents or b"")


@functools.lru_cache(maxsize=2)
def _offsets(hashes: KernelHashes) -> dict[bytes, int]:
    return {
        hashlib.sha384(page_of(hashes, offset)).digest(): offset
        for offset in range(PAGE_SIZE - TABLE_SIZE + 1)
    }
