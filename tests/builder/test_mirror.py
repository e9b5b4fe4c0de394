from __future__ import annotations

import pytest

from builder.errors import UsageError
from builder.mirror import Mirrors, find_mirrors

MAIN, SECURITY = "http://archive.test/debian", "http://archive.test/debian-security"


DEB822 = f"""\
# a comment
Types: deb deb-src
URIs: {MAIN}/
Suites: bookworm bookworm-updates
Components: main

Types: deb
URIs: {SECURITY}
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 Version: x
"""


def test_deb822_sources(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    assert find_mirrors(None, {}, tmp_path) == Mirrors(archive=MAIN, security=SECURITY)


@pytest.mark.parametrize(
    ("text", "archive", "security"),
    [
        (f"deb {MAIN} bookworm main contrib\n", MAIN, SECURITY),
        (f"deb [signed-by=/k arch=amd64] {MAIN}/ trixie main # x\n", MAIN, SECURITY),
        (f"# deb http://no.test/debian trixie main\ndeb {MAIN} stable main\n", MAIN, SECURITY),
        (f"deb-src http://no.test/d trixie main\ndeb {MAIN} trixie main\n", MAIN, SECURITY),
        ("deb http://s.test/sec trixie-security main\ndeb http://a.test/d trixie main\n", "http://a.test/d",
         "http://s.test/sec"),
        ("deb http://s.test/sec buster/updates main\ndeb http://a.test/d trixie main\n", "http://a.test/d",
         "http://a.test/d-security"),
        (f"deb http://docker.test/linux trixie stable\ndeb http://pg.test/apt trixie-pgdg main\ndeb {MAIN} sid main\n",
         MAIN, SECURITY),
    ],
)  # fmt: skip
def test_one_line_sources(tmp_path, text, archive, security):
    (tmp_path / "sources.list").write_text(text)
    assert find_mirrors(None, {}, tmp_path) == Mirrors(archive=archive, security=security)


def test_mirror_list_of_cloud_images(tmp_path):
    (tmp_path / "mirrors.list").write_text(f"# chosen\n{MAIN}/\tpriority:1\n")
    (tmp_path / "sources.list").write_text(f"deb mirror+file://{tmp_path}/mirrors.list trixie main\n")
    assert find_mirrors(None, {}, tmp_path).archive == MAIN


def test_disabled_source_is_not_used(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d/x.sources").write_text(
        "Enabled: no\n" + DEB822.split("\n", 1)[1].split("\n\n")[0]
    )
    with pytest.raises(UsageError, match="no Debian archive") as caught:
        find_mirrors(None, {}, tmp_path)
    assert "--mirror" in (caught.value.hint or "")


def test_option_wins_over_environment_and_host(tmp_path):
    (tmp_path / "sources.list").write_text(f"deb {MAIN} trixie main\n")
    environment = {"GOLDSMITH_MIRROR": "https://env.test/debian/"}
    assert find_mirrors("http://o.test/d", environment, tmp_path).archive == "http://o.test/d"
    assert find_mirrors(None, environment, tmp_path) == Mirrors(
        archive="https://env.test/debian", security="https://env.test/debian-security"
    )


@pytest.mark.parametrize(
    "address", ["ftp://x/debian", "x", "http://", "http://a b", 'http://a";', "file:/etc"]
)
def test_malformed_addresses(tmp_path, address):
    with pytest.raises(UsageError, match="expected an http"):
        find_mirrors(address, {}, tmp_path)


def test_pockets():
    mirrors = Mirrors(archive="A", security="S")
    assert [mirrors.base(pocket) for pocket in ("trixie", "trixie-updates", "trixie-security")] == [
        "A",
        "A",
        "S",
    ]
