"""Platform profiles: what firmware and launch shape decide, composed with the image layer of a release.

A cloud that rolls its firmware voids no release: whoever knows the new firmware writes a profile of it, and a verifier
composes that with the signed image layer of the golden document. docs/platform-profiles.md is the normative text.
"""

from __future__ import annotations

from importlib import resources

from measurements.profile.compose import Composition, compose, cut_sev_snp, extended, profile_of
from measurements.profile.document import parse, parse_value, to_canonical, to_pretty, to_value
from measurements.profile.model import (
    FORMAT,
    MAX_PROFILE_BYTES,
    HashesPage,
    PlatformProfile,
    SevSnpTemplate,
    TdxTemplate,
    TpmTemplate,
)
from measurements.profile.template import Gap, RegisterTemplate, TemplateCourse

__all__ = [
    "FORMAT",
    "MAX_PROFILE_BYTES",
    "Composition",
    "Gap",
    "HashesPage",
    "PlatformProfile",
    "RegisterTemplate",
    "SevSnpTemplate",
    "TdxTemplate",
    "TemplateCourse",
    "TpmTemplate",
    "compose",
    "cut_sev_snp",
    "extended",
    "json_schema",
    "parse",
    "parse_value",
    "profile_of",
    "to_canonical",
    "to_pretty",
    "to_value",
]


def json_schema() -> bytes:
    """Return the JSON Schema (draft 2020-12) of the document, as shipped with the package."""
    return resources.files(__name__).joinpath("schema.json").read_bytes()
