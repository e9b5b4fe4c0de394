from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rootfs_samples import layer, package

from builder.errors import ComposeError
from builder.rootfs.accounts import read_accounts
from builder.rootfs.merge import merge
from builder.rootfs.unitfile import expand, load_unit, parse_unit
from builder.rootfs.units import apply_units
from builder.tree import Tree

SYSTEM = "/usr/lib/systemd/system"
UNITS = {
    "multi-user.target": b"[Unit]\nDescription=x\n",
    "sockets.target": b"[Unit]\n",
    "static.service": b"[Service]\nExecStart=/usr/bin/x\n",
    "net.service": b"[Service]\nExecStart=/x\n[Install]\nWantedBy=multi-user.target\nAlias=dbus-org.x.service\n"
    b"Also=net.socket static.service gone.service\n",
    "net.socket": b"[Socket]\nListenStream=/run/x\n[Install]\nRequiredBy=sockets.target\n",
    "getty@.service": b"[Service]\nExecStart=/x\n[Install]\nWantedBy=multi-user.target\nDefaultInstance=tty1\n",
    "worker@.service": b"[Service]\nExecStart=/x\n[Install]\nUpheldBy=multi-user.target\n",
    "lost.service": b"[Service]\nExecStart=/x\n[Install]\nWantedBy=gone.target\n",
}


def tree_of(units=UNITS, **more):
    tree = Tree()
    files = {f"{SYSTEM}/{name}": text for name, text in units.items()} | more
    merge(tree, [package("units", files)], excludes=(), decided=(), accounts=read_accounts(layer()))
    return tree


def links(tree):
    prefix = "/etc/systemd/system/"
    return {p.removeprefix(prefix): n.target for p, n in tree.items() if p.startswith(prefix) and n.target}


def applied(**units):
    tree = tree_of()
    notes = apply_units(tree, layer(units=units).units)
    return links(tree), notes


def test_enabling_makes_the_links_of_install():
    # expected: what `systemctl --root=DIR enable net.service` of systemd 257.13-1~deb13u1 made of these files
    made, notes = applied(enable=["net.service"])
    assert made == {
        "multi-user.target.wants/net.service": f"{SYSTEM}/net.service",
        "dbus-org.x.service": f"{SYSTEM}/net.service",
        "sockets.target.requires/net.socket": f"{SYSTEM}/net.socket",
    }
    assert notes == ("net.service names gone.service in Also=, which the tree does not have",)


def test_templates_take_their_default_or_named_instance():
    # expected: as above, for getty@.service and worker@a.service; it refuses worker@.service, as we do
    assert applied(enable=["getty@.service"])[0] == {
        "multi-user.target.wants/getty@tty1.service": f"{SYSTEM}/getty@.service"
    }
    assert applied(enable=["worker@a.service"])[0] == {
        "multi-user.target.upholds/worker@a.service": f"{SYSTEM}/worker@.service"
    }


def test_mask_and_default_target():
    made, _ = applied(mask={"net.service": "not wanted here"}, default_target="multi-user.target")
    assert made == {"net.service": "/dev/null", "default.target": f"{SYSTEM}/multi-user.target"}


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ({"enable": ["nett.service"]}, "nett.service is enabled, and the tree has no unit file"),
        (
            {"mask": {"nett.service": "not wanted here"}},
            "nett.service is masked, and the tree has no unit file",
        ),
        ({"default_target": "gone.target"}, "gone.target is the default target, and the tree has no"),
        ({"enable": ["static.service"]}, r"static\.service \(units 1\.0\) has no \[Install\] section"),
        ({"enable": ["lost.service"]}, r"lost\.service \(units 1\.0\): WantedBy=gone\.target"),
        ({"enable": ["worker@.service"]}, "worker@.service is a template without DefaultInstance="),
        (
            {"enable": ["net.service"], "mask": {"net.service": "not wanted here"}},
            "net.service is masked and enabled",
        ),
    ],
)
def test_what_cannot_be_enabled_or_masked(units, message):
    with pytest.raises(ComposeError, match=message):
        applied(**units)


def test_a_near_name_is_suggested():
    with pytest.raises(ComposeError) as caught:
        applied(enable=["nett.service"])
    assert "net.service" in caught.value.hint


def test_a_mask_where_a_package_has_its_own_unit_names_both():
    tree = tree_of(**{"/etc/systemd/system/net.service": b"[Service]\n"})
    with pytest.raises(ComposeError, match=r"units 1\.0 .*units \(symlink\)"):
        apply_units(tree, layer(units={"mask": {"net.service": "not wanted here"}}).units)


def test_unit_syntax_continuations_comments_and_resets():
    text = "[Service]\n# c\n; d\nExecStart=/a \\\n# inside\n  b\nExecStart=\nExecStart = /c\n[Install]\n"
    assert parse_unit(text, "x") == [
        ("Service", "ExecStart", "/a  b"), ("Service", "ExecStart", ""), ("Service", "ExecStart", "/c"),
    ]  # fmt: skip
    for bad in ("Key=value\n", "[A]\nnonsense\n"):
        with pytest.raises(ComposeError, match="expected"):
            parse_unit(bad, "x")


def test_drop_ins_apply_by_name_and_etc_wins():
    tree = tree_of(**{
        f"{SYSTEM}/net.service.d/20-b.conf": b"[Service]\nExecStart=\nExecStart=/twenty\n",
        f"{SYSTEM}/service.d/10-a.conf": b"[Service]\nUser=ten\n",
        f"{SYSTEM}/net.service.d/30-c.conf": b"[Service]\nUser=hidden\n",
        "/etc/systemd/system/net.service.d/30-c.conf": "-> /dev/null",
    })  # fmt: skip
    unit = load_unit(tree, "net.service")
    assert unit is not None
    assert unit.values("Service", "ExecStart") == ("/twenty",)
    assert unit.value("Service", "User") == "ten"


def test_specifiers_of_the_name():
    assert expand("%p-%i-%n-%N-%%", "a@b.service", "x") == "a-b-a@b.service-a@b-%"
    with pytest.raises(ComposeError, match="%H"):
        expand("%H", "a.service", "x")


@given(st.text(max_size=120) | st.text(alphabet="[]=\\#; \nAb", max_size=120))
def test_any_text_is_a_unit_file_or_refused(text):
    with contextlib.suppress(ComposeError):
        assert all(section for section, _, _ in parse_unit(text, "x"))
