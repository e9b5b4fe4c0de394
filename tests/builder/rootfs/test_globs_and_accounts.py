from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rootfs_samples import layer, package

from builder.errors import ComposeError
from builder.rootfs.accounts import Needs, read_accounts, write_accounts
from builder.rootfs.findings import Findings
from builder.rootfs.globs import Globs
from builder.rootfs.merge import merge
from builder.rootfs.sysusers import check_sysusers, parse_sysusers
from builder.tree import Tree


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/usr/*", "/usr/lib", True),
        ("/usr/*", "/usr/lib/x", False),
        ("/usr/*.so", "/usr/.so", True),
        ("/usr/**", "/usr/lib/x", True),
        ("/usr/**", "/usr", False),
        ("/usr/**/x", "/usr/x", True),
        ("/usr/**/x", "/usr/a/b/x", True),
        ("/usr/**/x", "/usr/ax", False),
        ("/a?c", "/abc", True),
        ("/a?c", "/a/c", False),
        ("/a.c", "/abc", False),
        ("/a[b]", "/ab", False),
        ("/a", "/a\n", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert Globs([pattern]).matches(path) is expected


def test_below_takes_what_a_directory_holds():
    globs = Globs(["/usr/share/doc", "/etc/x*"], below=True)
    assert globs.matches("/usr/share/doc/a/b") and globs.matches("/etc/x1/y")
    assert not globs.matches("/usr/share/docs")


def test_each_pattern_that_matches_counts_as_used():
    globs = Globs(["/a/*", "/a/b", "/c"])
    assert globs.matches("/a/b")
    assert globs.unused == ("/c",)


@given(st.text(alphabet="ab*?/.[(\\+$", max_size=12))
def test_any_pattern_compiles_and_a_literal_matches_itself(pattern):
    Globs([f"/{pattern}"]).matches("/ab/a.b")
    literal = f"/{pattern}".replace("*", "").replace("?", "")
    assert Globs([literal]).matches(literal)


USERS = {
    "users": [{"name": "tss", "uid": 900, "home": "/var/lib/tpm", "description": "TPM"}],
    "groups": [{"name": "video", "gid": 44, "members": ["tss"]}],
}


def test_the_four_files():
    tree = Tree()
    write_accounts(tree, read_accounts(layer(**USERS)))
    # expected lines follow passwd(5), group(5), shadow(5) and gshadow(5)
    assert tree["/etc/passwd"].content.decode().splitlines() == [
        "root:x:0:0:root:/root:/usr/sbin/nologin",
        "tss:x:900:900:TPM:/var/lib/tpm:/usr/sbin/nologin",
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
    ]
    assert tree["/etc/group"].content == b"root:x:0:\nvideo:x:44:tss\ntss:x:900:\nnogroup:x:65534:\n"
    assert tree["/etc/shadow"].content == b"root:!*:::::::\ntss:!*:::::::\nnobody:!*:::::::\n"
    assert b"video:!*::tss\n" in tree["/etc/gshadow"].content
    assert [tree[f"/etc/{name}"].mode for name in ("passwd", "group", "shadow", "gshadow")] == [
        0o644, 0o644, 0o600, 0o600,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": [{"name": "a", "uid": 5}, {"name": "b", "uid": 5}]}, "uid 5 belongs to both a and b"),
        ({"groups": [{"name": "a", "gid": 5}, {"name": "b", "gid": 5}]}, "gid 5 belongs to both a and b"),
        ({"groups": [{"name": "a", "gid": 5}, {"name": "a", "gid": 6}]}, "group a has gid 6 and gid 5"),
        ({"users": [{"name": "a", "uid": 5}, {"name": "a", "uid": 6}]}, "user a is pinned twice"),
        ({"users": [{"name": "a", "uid": 5, "group": "b"}]}, "primary group b"),
        ({"groups": [{"name": "a", "gid": 5, "members": ["b"]}]}, "group a has the member b"),
        ({"users": [{"name": "a", "uid": 5, "description": "x:y"}]}, "colon"),
        ({"users": [{"name": "a", "uid": 0}]}, "uid 0 belongs to both"),
        ({"users": [{"name": "root", "uid": 5}]}, "root has id 0"),
    ],
)
def test_accounts_that_contradict_each_other(settings, message):
    with pytest.raises(ComposeError, match=message):
        read_accounts(layer(**settings))


def test_sysusers_grammar():
    text = """
# comment
u     httpd    404            "HTTP User"
u!    _oldweb  -              "Web \\"old\\""  /var/www /bin/sh
u     postgres 26:postgres    - /var/lib/pgsql
u     games    5:60
u     anyid    -:audio
u     byfile   /usr/bin/x
g     tty      5
g     input    -  -
m     httpd    input
r     -        500-900
u     %o-web   -
"""
    lines = list(parse_sysusers(text, "x.conf", {"o": "debian"}))
    assert [(line.type, line.name, line.uid, line.gid, line.group) for line in lines] == [
        ("u", "httpd", 404, None, ""),
        ("u!", "_oldweb", None, None, ""),
        ("u", "postgres", 26, None, "postgres"),
        ("u", "games", 5, 60, ""),
        ("u", "anyid", None, None, "audio"),
        ("u", "byfile", None, None, ""),
        ("g", "tty", None, 5, ""),
        ("g", "input", None, None, ""),
        ("m", "httpd", None, None, "input"),
        ("r", "-", None, None, ""),
        ("u", "debian-web", None, None, ""),
    ]


@pytest.mark.parametrize(
    "line",
    ["x a -", "u", "u 0day -", "u a b", "u a 1:!", "g a 1:2", "m a", "m a 0b", "r - a-b", "r x 1-2", 'u a - "x',
     "u a%H -", "u a 1 g h s extra", "u! a%", "u a 99999999999"],
)  # fmt: skip
def test_sysusers_lines_that_are_none(line):
    with pytest.raises(ComposeError, match=r"x\.conf:1"):
        list(parse_sysusers(line, "x.conf", {}))


@given(st.text(max_size=80) | st.text(alphabet="ugmr! -:/%\"'\\ab01\n", max_size=80))
def test_any_text_parses_or_is_refused(text):
    with contextlib.suppress(ComposeError):
        for line in parse_sysusers(text, "x.conf", {"o": "debian"}):
            assert line.type in ("u", "u!", "g", "m", "r")


def sysusers_findings(text, **settings):
    accounts = read_accounts(layer(**settings))
    tree = Tree()
    files = {"/usr/lib/sysusers.d/x.conf": text, "/usr/lib/sysusers.d/hidden.conf": b"u never -\n",
             "/etc/sysusers.d/hidden.conf": "-> /dev/null"}  # fmt: skip
    merge(tree, [package("tpm", files)], excludes=(), decided=(), accounts=accounts)
    findings = Findings()
    needs = Needs(accounts)
    check_sysusers(tree, needs, findings)
    needs.report(findings)
    return findings


def test_every_unpinned_account_is_named_with_its_file_package_and_cure():
    findings = sysusers_findings(b"u tss - TPM\ng tty 5\nm tss video\n")
    assert [error.partition(" is not")[0] for error in findings.errors] == [
        "the group tty", "the group video", "the user tss",
    ]  # fmt: skip
    assert all("/usr/lib/sysusers.d/x.conf (tpm 1.0)" in error for error in findings.errors)
    with pytest.raises(ComposeError) as caught:
        findings.raise_errors("x")
    assert "- {name: tty, gid: 5}" in caught.value.hint
    assert "- {name: tss, uid: 998}" in caught.value.hint


def test_pinned_accounts_satisfy_sysusers():
    assert not sysusers_findings(b"u tss - TPM\ng video 44\nm tss video\n", **USERS).errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"u tss 901", "fixes user tss as 901; the recipe pins 900"),
        (b"g video 45", "fixes group video as 45; the recipe pins 44"),
        (b"u tss -:video", "primary group video"),
        (b"u tss 900:44", "primary group 44"),
        (b"m nobody video", "makes nobody a member of video"),
    ],
)
def test_pins_that_disagree_with_sysusers(text, message):
    (error,) = sysusers_findings(text, **USERS).errors
    assert message in error and "(tpm 1.0)" in error
