"""The golden document of a build: assembled, held against the committed one, signed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from builder.artifacts import Lock, Output
from builder.atomic import write_atomic
from builder.errors import GoldenMismatchError
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
        lines = [f"  {difference}" for difference in differences[:_LISTED]]
        if len(differences) > _LISTED:
            lines.append(f"  … and {len(differences) - _LISTED} more")
        raise GoldenMismatchError(
            f"the build of {document.image.name} disagrees with its committed golden values:\n"
            + "\n".join(lines),
            hint=f"if the change is wanted: goldsmith build {document.image.name} --accept",
        )


def sign_release(document: GoldenDocument, keys: Sequence[SigningKey], folder: Path) -> None:
    """Write the signed envelope and the public key of its first signature.

    Without keys a fresh Ed25519 key signs and is forgotten: such a release can be checked, and nobody can
    sign in its name later.
    """
    signers = list(keys) or [generate(KeyAlgorithm.ED25519)]
    (folder / ENVELOPE).write_bytes(sign_document(document, signers))
    (folder / PUBLIC_KEY).write_bytes(signers[0].public().pem())
