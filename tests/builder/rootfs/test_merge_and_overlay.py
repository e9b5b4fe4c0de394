from __future__ import annotations

import pytest
from rootfs_samples import layer, package, recipe_file

from builder.errors import ComposeError
from builder.rootfs.accounts import read_accounts
from builder.rootfs.closure import strip_setuid
from builder.rootfs.merge import merge
from builder.rootfs.overlay import fixed_points, overlay
from builder.rootfs.summary import summarise
from builder.tree import Kind, Tree


def merged(*packages, **settings):
    tree = Tree()
    made = layer(**settings)
    merge(tree, packages, excludes=made.exclude, decided=(), accounts=read_accounts(made))
    return tree


def exclude(*paths, keep=()):
    return {"exclude": ({"paths": paths, "keep": keep, "reason": "not for machines"},)}


def test_files_of_the_old_root_folders_land_in_usr():
    tree = merged(package("a", {"/bin": None, "/bin/sh": b"", "/lib64/ld.so": b"", "/usr/sbin/x": b""}))
    assert "/usr/bin/sh" in tree and "/usr/lib64/ld.so" in tree
    assert {path: tree[path].target for path in ("/bin", "/lib64", "/sbin")} == {
        "/bin": "usr/bin", "/lib64": "usr/lib64", "/sbin": "usr/sbin",
    }  # fmt: skip
    assert "/lib" not in tree
    assert tree.resolve("/bin/sh") == "/usr/bin/sh"


def test_a_base_link_elsewhere_is_refused():
    with pytest.raises(ComposeError, match=r"/bin: a 1\.0 links it to /opt/bin"):
        merged(package("a", {"/bin": "-> /opt/bin"}))


def test_one_path_in_two_archives_names_both():
    with pytest.raises(ComposeError, match=r"/usr/bin/x: both a 1\.0 .* and b 2\.0"):
        merged(package("a", {"/bin/x": b"1"}), package("b", {"/usr/bin/x": b"2"}, version="2.0"))


def test_a_path_below_a_link_of_another_package_names_both():
    with pytest.raises(ComposeError, match=r"/opt/x/file: b 1\.0 ships it below /opt/x, which a 1\.0"):
        merged(package("a", {"/opt/x": "-> /usr"}), package("b", {"/opt/x/file": b""}))


def test_all_conflicts_are_in_one_report():
    with pytest.raises(ComposeError, match="2 problems"):
        merged(package("a", {"/x": b"1", "/y": b"1"}), package("b", {"/x": b"2", "/y": b"2"}))


def test_exclusion_takes_folders_and_prunes_what_it_emptied():
    content = {"/usr": None, "/usr/share": None, "/usr/share/doc": None, "/usr/share/doc/a": b"", "/usr/bin/a": b"",
               "/var": None, "/var/empty": None}  # fmt: skip
    tree = merged(package("a", content), **exclude("/usr/share/doc/*"))
    assert [path for path, _ in tree.items()] == [
        "/", "/bin", "/usr", "/usr/bin", "/usr/bin/a", "/var", "/var/empty",
    ]  # fmt: skip


def test_keep_wins_over_every_exclusion_and_brings_its_folders_as_they_were():
    content = {"/usr/share/a": None, "/usr/share/a/b": b"", "/usr/share/a/c": b""}
    archive, entries = package("a", content)
    tree = merged((archive, entries), **exclude("/usr/share", keep=["/usr/share/a/b"]))
    assert "/usr/share/a/b" in tree and "/usr/share/a/c" not in tree
    assert tree["/usr/share/a"].origin.name == "a"
    blocks = exclude("/usr/share", keep=["/usr/share/a/b"])["exclude"] + exclude("/usr/share/a/*")["exclude"]
    assert "/usr/share/a/b" in merged((archive, entries), exclude=blocks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (exclude("/usr/share/doc"), "exclude pattern /usr/share/doc matches no path"),
        (exclude("/usr/bin", keep=["/usr/bin/b"]), "keep pattern /usr/bin/b matches no path"),
        (exclude("/usr/bin/**", "/usr/bin/zz"), "exclude pattern /usr/bin/zz"),
    ],
)
def test_patterns_that_match_nothing(settings, message):
    with pytest.raises(ComposeError, match=message):
        merged(package("a", {"/usr/bin/a": b""}), **settings)


def test_files_of_unpinned_ids_are_refused_unless_left_out():
    content = {"/usr/bin/a": b"", "/var/local": (b"", 0o644, 0, 50)}
    with pytest.raises(ComposeError, match=r"/var/local: a 1\.0 gives it to 0:50"):
        merged(package("a", content))
    assert "/var/local" not in merged(package("a", content), **exclude("/var/**"))
    tree = merged(package("a", content), groups=[{"name": "staff", "gid": 50}])
    assert tree["/var/local"].gid == 50


def overlaid(tree, *files, **settings):
    made = layer(**settings)
    overlay(tree, made, files, read_accounts(made))
    return tree


def test_a_recipe_file_wins_only_when_it_says_why():
    tree = merged(package("a", {"/etc/hosts": b"theirs"}))
    with pytest.raises(
        ComposeError, match=r"/etc/hosts: both a 1\.0 .* recipes/base/files/etc/hosts"
    ) as caught:
        overlaid(tree, recipe_file("/etc/hosts", b"ours"))
    assert "replaces" in caught.value.hint
    overlaid(tree, recipe_file("/etc/hosts", b"ours", replaces="the package's is empty"))
    assert tree["/etc/hosts"].content == b"ours"
    with pytest.raises(ComposeError, match="`replaces` is set, and no package ships this path"):
        overlaid(tree, recipe_file("/etc/other", replaces="it was there once"))


def test_owners_directories_and_links():
    settings = {
        "users": [{"name": "web", "uid": 800}],
        "directories": [{"path": "/srv/web", "mode": "0750", "owner": "web", "group": "web"}],
        "links": {"/etc/mtab": "../proc/self/mounts"},
    }
    tree = overlaid(Tree(), recipe_file("/srv/web/index", b"", mode=0o600, owner="web"), **settings)
    assert (tree["/srv/web"].mode, tree["/srv/web"].uid, tree["/srv/web"].gid) == (0o750, 800, 800)
    assert (tree["/srv/web/index"].mode, tree["/srv/web/index"].uid) == (0o600, 800)
    assert tree["/etc/mtab"].target == "../proc/self/mounts"
    assert tree["/srv"].kind is Kind.DIRECTORY
    with pytest.raises(ComposeError, match="its owner ghost is no user"):
        overlaid(Tree(), recipe_file("/x", owner="ghost"))
    with pytest.raises(ComposeError, match="its group ghost is no group"):
        overlaid(Tree(), recipe_file("/x", group="ghost"))


def test_a_recipe_file_below_the_old_root_folders_is_refused():
    tree = merged(package("a", {"/usr/bin/a": b""}))
    with pytest.raises(ComposeError, match=r"/bin/b: .*ships it below /bin"):
        overlaid(tree, recipe_file("/bin/b"))


def test_fixed_points():
    tree = merged(package("a", {"/usr/lib/systemd/systemd-resolved": b"", "/run": None}))
    fixed_points(tree)
    assert tree["/tmp"].mode == 0o1777 and tree["/run"].origin.name == "a"
    assert (tree["/etc/machine-id"].content, tree["/etc/machine-id"].mode) == (b"", 0o444)
    assert tree["/etc/resolv.conf"].target == "../run/systemd/resolve/stub-resolv.conf"


def test_strip_setuid_takes_the_bits_and_knows_its_files():
    tree = merged(package("mount", {"/usr/bin/mount": (b"", 0o4755), "/usr/bin/x": (b"", 0o755)}))
    strip_setuid(tree, {"/usr/bin/mount": "only PID 1 mounts"})
    assert tree["/usr/bin/mount"].mode == 0o755
    for path in ("/usr/bin/x", "/usr/bin/none"):
        with pytest.raises(ComposeError, match=f"lists {path}"):
            strip_setuid(tree, {path: "a reason"})


def test_summary_counts_files_and_links_by_origin():
    tree = merged(package("big", {"/a": b"12345", "/b": "-> a", "/d": None}), package("small", {"/c": b"1"}))
    assert [(s.name, s.version, s.files, s.size) for s in summarise(tree)] == [
        ("big", "1.0", 2, 5), ("small", "1.0", 1, 1),
    ]  # fmt: skip
