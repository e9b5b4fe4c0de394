"""goldsmith predict compose; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.files import golden_document, public_keys
from builder.cli.profiles import add_profile_options, read_profiles
from builder.errors import BuilderError
from measurements.errors import PredictionError
from measurements.events import HashAlgorithm, RegisterPrediction, Stability
from measurements.golden import SevSnpReference, TdxReference
from measurements.predict import prediction_to_json, register_to_json
from measurements.profile import Composition, compose


def main(arguments: list[str]) -> int:
    """Compose the image layer of a golden document with platform profiles; returns 0."""
    given = _parser().parse_args(arguments)
    document = golden_document(given.image, public_keys(given.key))
    if document.image_layer is None:
        raise BuilderError(
            f"{given.image} has no image layer to compose", hint="build that release anew: goldsmith build"
        )
    banks = document.image_layer.banks
    compositions = []
    for each in read_profiles(given):
        try:
            compositions.append(compose(document.image_layer, each))
        except PredictionError as error:
            raise BuilderError(str(error)) from error
    if given.json:
        image = document.image
        console.emit_json(
            {
                "image": {"name": image.name, "version": image.version, "svn": image.svn},
                **_object(compositions, banks),
            }
        )
    else:
        _print(compositions, banks)
    return 0


def _parser() -> Parser:
    parser = Parser(
        "predict compose",
        "Compose what an image decides with what a platform does: the reference values of launches that the golden "
        "document does not have. goldsmith verify --profile compares with them.",
    )
    add = parser.add_argument
    add("--image", metavar="GOLDEN", type=Path, required=True,
        help="golden.json, its signed envelope, or a release folder: whose image layer is meant")  # fmt: skip
    add("--key", metavar="PEM", type=Path, action="append", default=[],
        help="public key that must have signed it; may be repeated. Without, signatures are not looked at")  # fmt: skip
    add_profile_options(parser, required=True)
    add("--json", action="store_true", help="print a JSON object")
    return parser


def _object(compositions: list[Composition], banks: tuple[HashAlgorithm, ...]) -> dict[str, Any]:
    return {
        "tpm": [prediction_to_json(item, banks) for found in compositions for item in found.predictions],
        "sev_snp": [_sev_snp(item) for found in compositions for item in found.sev_snp],
        "tdx": [_tdx(item) for found in compositions for item in found.tdx],
    }


def _sev_snp(item: SevSnpReference) -> dict[str, Any]:
    return {"name": item.name, "launch_digest": item.launch_digest.hex(), "pages": item.pages}


def _tdx(item: TdxReference) -> dict[str, Any]:
    return {
        "name": item.name,
        "mrtd": {order.value: digest.hex() for order, digest in item.mrtd.items()},
        "td_hob": None if item.td_hob is None else item.td_hob.hex(),
        "registers": {
            f"rtmr{register.index}": register_to_json(register, HashAlgorithm.SHA384)
            for register in item.registers
        },
    }


def _print(compositions: list[Composition], banks: tuple[HashAlgorithm, ...]) -> None:
    for found in compositions:
        for prediction in found.predictions:
            for bank in banks:
                rows = [_row(f"PCR {register.index}", register, bank) for register in prediction.registers]
                _table(f"{prediction.shape.name}, {bank}", rows)
        for launch in found.sev_snp:
            _table(launch.name, [["launch digest", launch.launch_digest.hex(), "", ""]])
        for domain in found.tdx:
            rows = [[f"MRTD, {order}", digest.hex(), "firmware", ""] for order, digest in domain.mrtd.items()]
            rows += [
                _row(f"RTMR{register.index}", register, HashAlgorithm.SHA384) for register in domain.registers
            ]
            _table(domain.name, rows)


def _table(title: str, rows: list[list[str]]) -> None:
    console.table(title, ["register", "value", "depends on", "reason"], rows)
    console.out("")


def _row(name: str, register: RegisterPrediction, bank: HashAlgorithm) -> list[str]:
    pinned = register.stability is not Stability.NOT_PINNED
    values = "\n".join(value.hex() for value in register.values(bank)) if pinned else ""
    return [name, values or "-", register.stability.value, register.reason or ""]
