"""The golden document of a build: assembled, held against the committed one, signed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from builder.artifacts import Lock, Output
from builder.atomic import write_atomic
from builder.errors import GoldenMismatchError, ImageError
from builder.recipe.merged import Recipe
from measurements import golden
from measurements.envelope import sign_document
from measurements.errors import MeasurementError
from measurements.golden import GoldenDocument
from measurements.image_layer import ImageLayer
from measurements.keys import KeyAlgorithm, SigningKey, generate
from measurements.prediction import Prediction

GOLDEN, ENVELOPE, PUBLIC_KEY = "golden.json", "golden.dsse.json", "release.pub"
CONVERTED_DISK = "disk.qcow2"
#: How many differences an error lists; the rest is counted.
_LISTED = 12
#: Causes of events in which the root hash is: the sealed words themselves, the partitions' names, the UKI as a whole.
_FOLLOW_ROOT_HASH = frozenset({"uki .cmdline", "disk partition table", "uki", "image", "kernel hashes"})
#: Outputs that hold it, or digests of files that do.
_HOLD_ROOT_HASH = frozenset(
    f"output {name}"
    for name in ("uki.efi", "disk.raw", CONVERTED_DISK, "audit.json", "sbom.cdx.json", "sbom.spdx.json")
)
_SIGNATURES = (".ko.p7s", " modules.pem")


def golden_document(
    recipe: Recipe,
    lock: Lock,
    *,
    outputs: Iterable[Output],
    predictions: Iterable[Prediction],
    sev_snp: Iterable[golden.SevSnpReference] = (),
    tdx: Iterable[golden.TdxReference] = (),
    image_layer: ImageLayer,
) -> GoldenDocument:
    """Assemble the document; it depends on recipe, lock and our own version, and on no clock."""
    return golden.document_from(
        image=golden.ImageIdentity(name=recipe.name, version=recipe.version, svn=recipe.svn),
        source_date_epoch=lock.source_date_epoch,
        validity=golden.Validity.since(lock.source_date_epoch, days=recipe.validity_days),
        inputs=golden.Inputs(recipe=recipe.digest, lock=lock.digest),
        outputs=[golden.Output(name=item.name, size=item.size, sha256=item.sha256) for item in outputs],
        calculator=golden.Calculator(name="goldsmith", version=metadata.version("goldsmith")),
        predictions=predictions,
        sev_snp=sev_snp,
        tdx=tdx,
        image_layer=image_layer,
        gpu=recipe.gpu,
    )


def check_committed(document: GoldenDocument, committed: Path, *, scratch: bool, accept: bool) -> None:
    """Hold a build's values against the recipe's committed document.

    Args:
        document: of this build.
        committed: ``recipes/<image>/golden.json``; a recipe may not have one yet.
        scratch: the build's lock is not the committed one, so its values cannot agree and are not compared.
        accept: write the values there.

    Raises:
        GoldenMismatchError: they differ; the message says what moved and because of which input.
    """
    if scratch:
        return
    # Another format of the same disk, written on demand: a build without it has the same values.
    document = replace(
        document, outputs=tuple(output for output in document.outputs if output.name != CONVERTED_DISK)
    )
    if accept:
        write_atomic(committed, golden.to_pretty(document))
        return
    if not committed.exists():
        return
    try:
        expected = golden.parse(committed.read_bytes())
    except MeasurementError as error:
        raise GoldenMismatchError(f"{committed} is no golden document: {error}") from error
    differences = golden.compare(expected, document)
    if differences:
        raise GoldenMismatchError(
            f"the build of {document.image.name} disagrees with its committed golden values:\n"
            + _listing(differences),
            hint=f"if the change is wanted: goldsmith build {document.image.name} --accept",
        )


def check_signed(unsigned: GoldenDocument, signed: GoldenDocument) -> None:
    """Hold a build with signed modules against the same build without, which is the committed one.

    Signatures move the root hash: the command line, the partitions' names, what is the UKI or the disk as a whole,
    and what is about these. Image, inputs, unsigned modules, every other register and event stay.

    Raises:
        ImageError: something else moved, so the two are not one build; the message says what.
    """
    moved = [
        difference
        for difference in golden.compare(unsigned, signed)
        if difference.cause not in _FOLLOW_ROOT_HASH
        and difference.where not in _HOLD_ROOT_HASH
        and not (difference.old is None and difference.where.endswith(_SIGNATURES))
    ]
    if moved:
        raise ImageError(
            f"the build of {signed.image.name} with signed modules differs from the one without in more than "
            "signatures move:\n" + _listing(moved)
        )


def sign_release(document: GoldenDocument, keys: Sequence[SigningKey], folder: Path) -> None:
    """Write the signed envelope and the public key of its first signature.

    Without keys a fresh Ed25519 key signs and is forgotten: such a release can be checked, and nobody can
    sign in its name later.
    """
    signers = list(keys) or [generate(KeyAlgorithm.ED25519)]
    (folder / ENVELOPE).write_bytes(sign_document(document, signers))
    (folder / PUBLIC_KEY).write_bytes(signers[0].public().pem())


def _listing(differences: Sequence[golden.Difference]) -> str:
    lines = [f"  {difference}" for difference in differences[:_LISTED]]
    if len(differences) > _LISTED:
        lines.append(f"  … and {len(differences) - _LISTED} more")
    return "\n".join(lines)
