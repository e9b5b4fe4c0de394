"""The golden document: reference values of one image, for every platform and launch shape.

docs/golden-format.md is the normative text. ``document_from`` assembles, ``to_canonical`` gives the bytes
that are signed, ``to_pretty`` the file that people read, ``parse`` is strict, ``compare`` says what moved
and why.
"""

from __future__ import annotations

from importlib import resources

from measurements.golden.assemble import document_from
from measurements.golden.compare import Difference, Move, compare, image_moves, moves
from measurements.golden.model import (
    FORMAT,
    FORMAT_VERSION,
    Calculator,
    GoldenDocument,
    ImageIdentity,
    Inputs,
    Output,
    Validity,
)
from measurements.golden.read import parse, parse_value
from measurements.golden.sev_snp import SevSnpReference, sev_snp_reference
from measurements.golden.tdx import TdxReference, tdx_reference
from measurements.golden.write import to_canonical, to_pretty, to_value

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "Calculator",
    "Difference",
    "GoldenDocument",
    "ImageIdentity",
    "Inputs",
    "Move",
    "Output",
    "SevSnpReference",
    "TdxReference",
    "Validity",
    "compare",
    "document_from",
    "image_moves",
    "json_schema",
    "moves",
    "parse",
    "parse_value",
    "sev_snp_reference",
    "tdx_reference",
    "to_canonical",
    "to_pretty",
    "to_value",
]


def json_schema() -> bytes:
    """Return the JSON Schema (draft 2020-12) of the document, as shipped with the package."""
    return resources.files(__name__).joinpath("schema.json").read_bytes()
