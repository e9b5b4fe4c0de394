"""goldsmith diff; runs on what a verifier installs: the base dependencies, and no typer."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from builder.cli import console
from builder.cli.arguments import Parser
from builder.cli.files import golden_document, public_keys
from measurements import golden
from measurements.golden import Difference, GoldenDocument


def main(arguments: list[str]) -> int:
    """Compare two golden documents; returns 0, or with ``--exit-code`` 1 when they differ."""
    parser = Parser(
        "diff",
        "Say what differs between two golden documents: inputs, outputs, and which input moved which registers.",
    )
    for name, what in (("old", "the first"), ("new", "the second")):
        parser.add_argument(
            name,
            metavar=name.upper(),
            type=Path,
            help=f"{what}: golden.json, its signed envelope, or a release folder",
        )
    parser.add_argument(
        "--key", metavar="PEM", type=Path, action="append", default=[],
        help="public key that must have signed both; may be repeated. Without, signatures are not looked at",
    )  # fmt: skip
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 when they differ")
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    given = parser.parse_args(arguments)
    keys = public_keys(given.key)
    old, new = golden_document(given.old, keys), golden_document(given.new, keys)
    differences = golden.compare(old, new)
    if given.json:
        layers = old.image_layer is not None and new.image_layer is not None
        console.emit_json(_object(differences, layers=layers))
    else:
        _print(differences, shapes=len(new.predictions) + len(new.sev_snp) + len(new.tdx))
        if differences:
            console.out(_layer(old, new, differences))
    return 1 if given.exit_code and differences else 0


def _layer(old: GoldenDocument, new: GoldenDocument, differences: tuple[Difference, ...]) -> str:
    if old.image_layer is None or new.image_layer is None:
        return "image layer: one document has none"
    if moved := golden.image_moves(differences):
        return f"image layer: differs in {', '.join(moved)}"
    return "image layer: equal; whatever moved, the platform moved it"


def _object(differences: tuple[Difference, ...], *, layers: bool) -> dict[str, object]:
    image = golden.image_moves(differences)
    return {
        "equal": not differences,
        "image_layer": {"equal": not image if layers else None, "moved": list(image)},
        "moved": [
            {
                "cause": move.cause,
                "registers": {name: list(shapes) for name, shapes in move.registers.items()},
            }
            for move in golden.moves(differences)
        ],
        "differences": [asdict(difference) for difference in differences],
    }


def _print(differences: tuple[Difference, ...], *, shapes: int) -> None:
    if not differences:
        console.out("equal")
        return
    rows = [
        [
            move.cause,
            register,
            "all" if len(names) == shapes else "\n".join(names),
            "\n".join(_once(differences, move.cause, register)),
        ]
        for move in golden.moves(differences)
        for register, names in move.registers.items()
    ]
    if rows:
        console.table("what moved the registers", ["input", "register", "launch shapes", "event"], rows)
        console.out("")
    for difference in differences:
        if difference.cause is None:
            console.out(str(difference))


def _once(differences: tuple[Difference, ...], cause: str, register: str) -> list[str]:
    """Return the events of one input in one register, each once, however many launch shapes have it."""
    return list(
        dict.fromkeys(
            difference.what.removeprefix("event ")
            for difference in differences
            if (difference.cause, difference.register) == (cause, register)
        )
    )
