"""A bill of materials whose image was signed: the same content, bound to the bytes that are published now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from builder.errors import ImageError
from builder.release.sbom.layout import render
from builder.release.sbom.read import CYCLONEDX
from builder.release.sbom.spdx import SPDX

#: File name -> the member that names the document, which follows from its content.
IDENTITIES: Final = {SPDX: "documentNamespace", CYCLONEDX: "serialNumber"}


def rebind(name: str, content: bytes, digests: Mapping[str, str]) -> bytes:
    """Return a document of `write_sboms` that names other digests of the image's files.

    Args:
        name: of the document's file, in `IDENTITIES`.
        content: what was published with the release.
        digests: SHA-256 (64 hex digits) as it is named there -> as it is now.

    Raises:
        ImageError: a digest is not in the document, or the document is not one of ours.
    """
    identity = IDENTITIES[name]
    try:
        document: dict[str, Any] = json.loads(content)
        del document[identity]
        if render(document, identity=identity) != content:
            raise ValueError("it is laid out in another way")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(f"{name} is no bill of materials that goldsmith wrote: {error}") from error
    text = content.decode()
    for old, new in digests.items():
        if old not in text:
            raise ImageError(f"{name} is not about this image: it does not name the digest {old}")
        text = text.replace(old, new)
    document = json.loads(text)
    del document[identity]
    return render(document, identity=identity)
