from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import ComposeError
from builder.tree import Kind, Node, Origin, Tree

PACKAGE = Origin(kind="package", name="mount", version="2.41")
OTHER = Origin(kind="package", name="busybox", version="1.37")


def directory(mode=0o755, origin=PACKAGE):
    return Node(kind=Kind.DIRECTORY, mode=mode, origin=origin)


def file(content=b"x", origin=PACKAGE):
    return Node(kind=Kind.FILE, mode=0o644, origin=origin, content=content)


def link(target, origin=PACKAGE):
    return Node(kind=Kind.SYMLINK, mode=0o777, origin=origin, target=target)


def tree(**nodes):
    made = Tree()
    for path, node in nodes.items():
        made.add(path, node)
    return made


def test_two_packages_with_different_files_at_one_path_are_both_named():
    made = tree(**{"/usr/bin/mount": file(b"a")})
    with pytest.raises(ComposeError, match=r"mount 2\.41.*busybox 1\.37"):
        made.add("/usr/bin/mount", file(b"b", OTHER))


def test_identical_files_and_agreeing_directories_merge():
    made = tree(**{"/usr": directory(), "/usr/a": file()})
    made.add("/usr", directory(origin=OTHER))
    made.add("/usr/a", file(origin=OTHER))
    assert made["/usr/a"].origin == PACKAGE


def test_directories_that_disagree_about_their_mode_are_refused():
    with pytest.raises(ComposeError, match=r"0755.*0700"):
        tree(**{"/root": directory()}).add("/root", directory(0o700, OTHER))


def test_items_come_with_parents_first_after_any_change():
    made = tree(**{"/usr/b": file(), "/usr": directory(), "/usr-c": file()})
    assert [path for path, _ in made.items()] == ["/usr", "/usr-c", "/usr/b"]
    made.add("/usr/a", file())
    made.remove("/usr-c")
    assert [path for path, _ in made.items()] == ["/usr", "/usr/a", "/usr/b"]


def test_children_are_direct_ones_that_exist():
    made = tree(**{"/": directory(), "/usr": directory(), "/usr/lib/x": file(), "/usr/bin": directory()})
    assert list(made.children("/usr")) == ["/usr/bin"]  # /usr/lib is implied and no node yet
    assert list(made.children("/")) == ["/usr"]
    assert list(made.children("/usr/lib")) == ["/usr/lib/x"]


def test_remove_takes_what_is_below_even_below_implied_directories():
    made = tree(**{"/a": directory(), "/a/b/c": file(), "/ab": file()})
    made.remove("/a")
    assert [path for path, _ in made.items()] == ["/ab"]
    made.add("/a", directory())
    assert list(made.children("/a")) == []


def test_a_file_does_not_replace_a_directory_that_holds_something():
    made = tree(**{"/etc": directory(), "/etc/hosts": file()})
    with pytest.raises(ComposeError, match="/etc/hosts"):
        made.replace("/etc", file())


def test_resolve_follows_links_like_the_kernel():
    made = tree(**{
        "/etc": directory(), "/usr": directory(), "/usr/lib": directory(), "/usr/lib/os-release": file(),
        "/etc/os-release": link("../usr/lib/os-release"), "/lib": link("usr/lib"), "/abs": link("/lib/os-release"),
        "/up": link("../../../usr"), "/loop": link("loop"), "/gone": link("nowhere"),
    })  # fmt: skip
    assert made.resolve("/etc/os-release") == "/usr/lib/os-release"
    assert made.resolve("/lib/./os-release") == "/usr/lib/os-release"
    assert made.resolve("/abs") == "/usr/lib/os-release"
    assert made.resolve("/up/lib") == "/usr/lib"
    assert made.resolve("/gone") is None
    assert made.resolve("/") == "/"
    with pytest.raises(ComposeError, match="loop"):
        made.resolve("/loop")


PATHS = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))


@given(st.lists(st.tuples(st.booleans(), PATHS), max_size=40))
def test_the_index_agrees_with_a_plain_search(steps):
    made = Tree()
    plain: set[str] = set()
    for adds, path in steps:
        if adds:
            made.replace(path, directory())
            plain.add(path)
        else:
            made.remove(path)
            plain = {name for name in plain if name != path and not name.startswith(f"{path}/")}
    assert [path for path, _ in made.items()] == sorted(plain)
    for folder in {"/", *plain}:
        prefix = folder.rstrip("/") + "/"
        direct = sorted(n for n in plain if n.startswith(prefix) and "/" not in n[len(prefix) :])
        assert list(made.children(folder)) == direct
