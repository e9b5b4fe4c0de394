"""Machine-readable Debian copyright files (DEP 5, format 1.0) as SPDX licence expressions.

Such a file describes a source package: which of its licences apply to one binary package, it does not say. So what
is read here is what Debian declares about the source as a whole, and never a conclusion about a file of the image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_COPYRIGHT = 4 << 20
_FORMAT = re.compile(r"https?://www\.debian\.org/doc/packaging-manuals/copyright-format/1\.0/?")
_FIELD = re.compile(r"(?P<name>[A-Za-z][A-Za-z-]*):[ \t]*(?P<value>.*)")

# DEP 5's short names (its section 7.1) and the spellings that packages use for the same licences -> SPDX list.
_SPDX = {
    "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "bsl-1.0": "BSL-1.0",
    "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc0": "CC0-1.0",
    "cc0-1.0": "CC0-1.0",
    "expat": "MIT",
    "fsfap": "FSFAP",
    "isc": "ISC",
    "zlib": "Zlib",
} | {
    f"{debian}{version}{later}": f"{spdx}-{version if '.' in version else version + '.0'}-{ending}"
    for debian, spdx, versions in (
        ("gpl-", "GPL", ("1", "2", "2.0", "3", "3.0")),
        ("lgpl-", "LGPL", ("2", "2.0", "2.1", "3", "3.0")),
    )
    for version in versions
    for later, ending in (("", "only"), ("+", "or-later"))
}
_EXCEPTIONS = {
    "bison exception": "Bison-exception-2.2",
    "linux-syscall-note exception": "Linux-syscall-note",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """What a copyright file lists.

    Attributes:
        expression: SPDX expression (SPDX 2.3, annex D): every licence of the file, joined by AND.
        texts: reference of each licence that SPDX does not list ("LicenseRef-…") -> Debian's short name and
            the licence's text as the file has it.
    """

    expression: str
    texts: tuple[tuple[str, str, str], ...]


def read_copyright(raw: bytes) -> Licence | None:
    """Return what a copyright file lists, or None when it is not machine-readable.

    Nothing is guessed: a licence name that is in no table becomes a reference to its own text.
    """
    if len(raw) > MAX_COPYRIGHT:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    paragraphs = [*_paragraphs(text)]
    if not paragraphs or _FORMAT.fullmatch(paragraphs[0].get("format", "").strip()) is None:
        return None
    bodies: dict[str, str] = {}
    used: dict[str, None] = {}
    for paragraph in paragraphs:
        name, _, body = paragraph.get("license", "").partition("\n")
        name = " ".join(name.split())
        if not name:
            if "files" in paragraph:
                return None  # a licence that stands elsewhere is not nothing
            continue
        if body.strip():
            bodies.setdefault(name.lower(), body)
        if "files" in paragraph:
            used[name] = None
    if not used:
        return None
    texts: dict[str, tuple[str, str, str]] = {}
    parts = sorted({part for name in used for part in _expressions(name, bodies, texts)})
    return Licence(expression=" AND ".join(parts), texts=tuple(texts[ref] for ref in sorted(texts)))


def _expressions(name: str, bodies: dict[str, str], texts: dict[str, tuple[str, str, str]]) -> Iterator[str]:
    """Yield the expressions of one License field, all of which apply; DEP 5, 7.2: "and" binds tighter than "or"."""
    if "," in name:  # a comma binds weaker than both, which no SPDX operator does
        yield _reference(name, bodies, texts)
        return
    alternatives = [
        [
            _single(piece.strip(), bodies, texts)
            for piece in re.split(r" and ", alternative, flags=re.IGNORECASE)
        ]
        for alternative in re.split(r" or ", name, flags=re.IGNORECASE)
    ]
    if len(alternatives) == 1:
        yield from alternatives[0]
    else:
        yield f"({' OR '.join(' AND '.join(pieces) for pieces in alternatives)})"


def _single(name: str, bodies: dict[str, str], texts: dict[str, tuple[str, str, str]]) -> str:
    plain, _, exception = name.partition(" with ")
    listed = _SPDX.get(plain.lower())
    if listed and not exception:
        return listed
    if listed and exception.lower() in _EXCEPTIONS:
        return f"{listed} WITH {_EXCEPTIONS[exception.lower()]}"
    return _reference(name, bodies, texts)


def _reference(name: str, bodies: dict[str, str], texts: dict[str, tuple[str, str, str]]) -> str:
    """Return a reference made of the name and of the text: two texts of one name are two licences."""
    lines = bodies.get(name.lower(), "").split("\n")
    body = "\n".join("" if line.strip() == "." else line.removeprefix(" ") for line in lines).strip()
    body = body or f"{name}, without a text of its own in the copyright file"
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")[:64]
    digest = hashlib.sha256(f"{name}\n{body}".encode()).hexdigest()
    ref = f"LicenseRef-Debian-{readable}-{digest[:8]}"
    texts[ref] = (ref, name, body)
    return ref


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the paragraphs (deb822(5)), field names in lower case; the first of two equal fields wins."""
    fields: dict[str, str] = {}
    current = ""
    for line in (*text.split("\n"), ""):
        if not line.strip():
            if fields:
                yield fields
            fields, current = {}, ""
        elif line[0] in " \t":
            if current:
                fields[current] += f"\n{line}"
        elif line[0] != "#":
            match = _FIELD.match(line)
            current = match["name"].lower() if match else ""
            if match and current not in fields:
                fields[current] = match["value"]
            else:
                current = ""
