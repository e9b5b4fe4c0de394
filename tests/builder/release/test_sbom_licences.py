"""Machine-readable copyright files, and all those that are none."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from license_expression import get_spdx_licensing
from sbom_samples import COPYRIGHT

from builder.release.sbom import licences
from builder.release.sbom.licences import read_copyright

FORMAT = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n"
#: The licence list as the SPDX project's Python tools read it.
SPDX = get_spdx_licensing()


def read(*names: str, more: str = "") -> str:
    paragraphs = "\n".join(f"Files: {number}\nLicense: {name}\n" for number, name in enumerate(names))
    found = read_copyright(f"{FORMAT}{paragraphs}\n{more}".encode())
    assert found is not None
    return found.expression


@pytest.mark.parametrize("listed", sorted({*licences._SPDX.values()}))
def test_every_licence_of_the_table_is_one_of_spdx(listed):
    assert SPDX.validate(listed).errors == []


@pytest.mark.parametrize("exception", sorted(licences._EXCEPTIONS.values()))
def test_every_exception_of_the_table_is_one_of_spdx(exception):
    assert SPDX.validate(f"GPL-2.0-only WITH {exception}").errors == []


# DEP 5, 7.2: "GPL-2+", "or" and "and", with "and" binding tighter; 7.1: short names.
@pytest.mark.parametrize(
    "names, expression",
    [
        (["GPL-2"], "GPL-2.0-only"),
        (["GPL-2+"], "GPL-2.0-or-later"),
        (["LGPL-2.1+", "lgpl-2.1+"], "LGPL-2.1-or-later"),
        (["GPL-2.0+"], "GPL-2.0-or-later"),
        (["Expat"], "MIT"),
        (["Expat", "BSD-3-clause"], "BSD-3-Clause AND MIT"),
        (["BSD-3-clause or GPL-2"], "(BSD-3-Clause OR GPL-2.0-only)"),
        (["Expat", "BSD-3-clause OR GPL-2 and ISC"], "(BSD-3-Clause OR GPL-2.0-only AND ISC) AND MIT"),
        (["ISC and Expat", "Expat"], "ISC AND MIT"),
        (["GPL-2 with Linux-syscall-note exception"], "GPL-2.0-only WITH Linux-syscall-note"),
        (["GPL-3+ with Bison exception"], "GPL-3.0-or-later WITH Bison-exception-2.2"),
    ],
)
def test_short_names_become_spdx_expressions(names, expression):
    assert read(*names) == expression
    assert SPDX.validate(expression).errors == []


@pytest.mark.parametrize(
    "name",
    # "MIT" is many licences (DEP 5, 7.1.2 wants "Expat"); a version nobody said is not guessed.
    [
        "MIT",
        "GPL",
        "LGPL",
        "public-domain",
        "GPL-2 with some exception",
        "GPL-2, and Expat",
        "BSD-3-clause-WIDE",
    ],
)
def test_what_no_table_has_becomes_a_reference_to_its_own_text(name):
    raw = f"{FORMAT}Files: *\nLicense: {name}\n\nLicense: {name}\n line one\n .\n  indented\n"
    found = read_copyright(raw.encode())
    ((ref, said, text),) = found.texts
    assert found.expression == ref and ref.startswith("LicenseRef-Debian-")
    assert (said, text) == (name, "line one\n\n indented")
    other = read_copyright(raw.replace("line one", "line two").encode())
    assert other.expression != found.expression, "two texts of one name are two licences"


def test_a_licence_without_files_does_not_count():
    assert read("Expat", more="License: GPL-3\n text\n") == "MIT"
    assert read_copyright(COPYRIGHT).expression.startswith(
        "GPL-2.0-or-later AND LicenseRef-Debian-house-rules-"
    )


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"This package was put together by somebody.\n",
        b"Format: https://example.org/another/1.0/\n\nFiles: *\nLicense: Expat\n",
        FORMAT.encode(),
        FORMAT.encode() + b"Files: *\nCopyright: somebody\n",
        FORMAT.encode() + b"License: Expat\n text\n",
        FORMAT.encode() + b"Files: *\nLicense: Expat \xff\n",
        FORMAT.encode() + b"Files: *\nLicense: Expat\n" + b"#" * licences.MAX_COPYRIGHT,
    ],
    ids=["empty", "free text", "another format", "header", "no licence", "no files", "no UTF-8", "too long"],
)
def test_nothing_is_guessed_where_machines_cannot_read(raw):
    assert read_copyright(raw) is None


NAMES = st.sampled_from(
    [*licences._SPDX, "public-domain", "GPL", "X11", "weird/\x1bname", "é", "or", "and", "with"]
)
FIELDS = st.lists(
    st.one_of(NAMES, st.sampled_from([" or ", " and ", " with ", ", "])), min_size=1, max_size=8
)


@settings(max_examples=200, deadline=None)
@given(st.lists(FIELDS.map("".join), min_size=1, max_size=4))
def test_every_expression_can_be_parsed(fields):
    raw = FORMAT + "\n".join(f"Files: *\nLicense: {field}\n" for field in fields)
    found = read_copyright(raw.encode())
    if found is not None:
        refs = {ref for ref, _, _ in found.texts}
        unknown = {str(key) for key in SPDX.parse(found.expression, validate=False).objects} - refs
        assert SPDX.unknown_license_keys(" AND ".join(sorted(unknown)) or "MIT") == []


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(COPYRIGHT)), st.booleans())
def test_hostile_copyright_files_raise_nothing(junk, at, whole):
    read_copyright(junk if whole else COPYRIGHT[:at] + junk + COPYRIGHT[at:])
