"""The closure check and the whole composition: each gap is one error that names both sides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rootfs_samples import LIBC, LIBRARIES, LOADER, PROGRAM, elf, layer, module, package, recipe_file

from builder.errors import ComposeError
from builder.rootfs import KernelPackage, compose
from builder.rootfs.interpreters import script_interpreter
from builder.tools import HOST

SYSTEM = "/usr/lib/systemd/system"
REASON = "wanted in this test"


def composed(content=None, *packages, files=(), kernel=None, tmp_path=Path("unused"), **settings):
    mine = [package("mine", content)] if content else []
    return compose(layer(**settings), [LIBC, *mine, *packages], files, kernel, tools=HOST, workdir=tmp_path)


def refused(content, *packages, **settings):
    with pytest.raises(ComposeError) as caught:
        composed(content, *packages, **settings)
    return str(caught.value)


def test_a_closed_tree_has_origins_fixed_points_and_no_notes():
    done = composed({"/usr/bin/x": PROGRAM}, files=[recipe_file("/etc/hostname", b"base\n")])
    assert done.notes == ()
    assert str(done.tree["/usr/bin/x"].origin) == "mine 1.0"
    assert str(done.tree["/etc/hostname"].origin) == "recipes/base/files/etc/hostname"
    assert done.tree["/etc/machine-id"].content == b""
    assert {"/proc", "/sys", "/dev", "/run", "/tmp", "/var", "/etc/passwd"} <= {
        p for p, _ in done.tree.items()
    }


def test_composing_twice_gives_the_same_tree():
    first, second = (composed({"/usr/bin/x": PROGRAM}).tree for _ in range(2))
    assert list(first.items()) == list(second.items())


def test_all_gaps_are_in_one_report():
    text = refused({"/usr/bin/x": (elf(needed=["libgone.so.1"]), 0o755), "/usr/bin/y": "-> /usr/bin/gone"})
    assert "2 problems" in text and "libgone.so.1" in text and "/usr/bin/gone" in text


# libraries


def test_an_absent_library_names_file_package_and_folders():
    broken = {"/usr/bin/x": (elf(interpreter=LOADER, needed=["libgone.so.1"], runpath="$ORIGIN/../p"), 0o755)}
    text = refused(broken)
    assert "/usr/bin/x (mine 1.0) needs the library libgone.so.1" in text and "$ORIGIN/../p" in text
    composed(broken, missing={"libgone.so.1": REASON})


@pytest.mark.parametrize(
    "runpath", ["/usr/lib/private", "$ORIGIN/../lib/private", "/none:${ORIGIN}/../lib/private"]
)
def test_a_private_library_is_found_by_runpath_alone(runpath):
    library = {"/usr/lib/private/libp.so.1": (elf(soname="libp.so.1"), 0o644)}
    composed(
        {**library, "/usr/bin/x": (elf(interpreter=LOADER, needed=["libp.so.1"], runpath=runpath), 0o755)}
    )
    without = (elf(interpreter=LOADER, needed=["libp.so.1"]), 0o755)
    assert "needs the library libp.so.1" in refused({**library, "/usr/bin/x": without})


def test_a_library_may_need_what_its_program_has_loaded_already():
    # libsystemd-core has no RUNPATH and needs libsystemd-shared, which systemd loads before it
    content = {
        "/usr/lib/private/libcore.so": (elf(soname="libcore.so", needed=["libshared.so"]), 0o644),
        "/usr/lib/private/libshared.so": (elf(soname="libshared.so"), 0o644),
    }

    def program(*needed):
        return elf(interpreter=LOADER, needed=needed, runpath="/usr/lib/private"), 0o755

    composed({**content, "/usr/bin/systemd": program("libcore.so", "libshared.so")})
    text = refused({**content, "/usr/bin/other": program("libcore.so")})
    assert (
        "libcore.so (mine 1.0) needs the library libshared.so" in text and "/usr/bin/other loads it" in text
    )


def test_an_absent_loader():
    text = refused({"/usr/bin/x": (elf(interpreter="/lib/ld-musl-x86_64.so.1"), 0o755)})
    assert "/usr/bin/x (mine 1.0) needs the loader /lib/ld-musl-x86_64.so.1" in text


@pytest.mark.parametrize(("priority", "is_error"), [("required", True), ("recommended", False)])
def test_libraries_opened_at_run_time(priority, is_error):
    note = json.dumps([{"feature": "bpf", "priority": priority, "soname": ["libbpf.so.1", "libbpf.so.0"]}])
    content = {"/usr/bin/x": (elf(interpreter=LOADER, notes=[note.encode()]), 0o755)}
    if is_error:
        assert "/usr/bin/x (mine 1.0) requires libbpf.so.1 or libbpf.so.0 for bpf" in refused(content)
    else:
        assert composed(content).notes == ("libbpf.so.1 (bpf) is absent; /usr/bin/x would open it",)
    assert composed({**content, f"{LIBRARIES}/libbpf.so.0": (elf(soname="libbpf.so.0"), 0o644)}).notes == ()


def test_a_damaged_elf_file_is_an_error_and_a_foreign_one_a_note():
    assert "/usr/bin/x (mine 1.0): ELF" in refused({"/usr/bin/x": b"\x7fELF\x02\x01"})
    assert "ELF machine 247" in composed({"/usr/lib/x.bpf": elf(machine=247)}).notes[0]


# interpreters


@pytest.mark.parametrize("name", ["sh", "bash", "busybox", "perl", "perl5.40.1", "python3.13", "gawk", "zsh"])
def test_no_shell_or_interpreter_that_is_not_listed(name):
    content = {f"/usr/bin/{name}": PROGRAM}
    assert f"/usr/bin/{name} (mine 1.0) is a shell or interpreter" in refused(content)
    composed(content, interpreters={f"/usr/bin/{name}": REASON})


def test_a_link_to_a_listed_interpreter_is_allowed_and_data_is_none():
    content = {
        "/usr/bin/python3.13": PROGRAM,
        "/usr/bin/python3": "-> python3.13",
        "/usr/share/x/perl": b"data",
    }
    composed(content, interpreters={"/usr/bin/python3.13": REASON})


def test_scripts_need_their_interpreter_and_its_permission():
    script = {"/usr/bin/tool": (b"#!/usr/bin/lang -x\n", 0o755)}
    text = refused(script)
    assert "script /usr/bin/tool (mine 1.0) needs the interpreter /usr/bin/lang" in text
    composed(script, missing={"/usr/bin/lang": REASON})
    assert "runs on /usr/bin/lang, which the recipe does not allow" in refused(
        {**script, "/usr/bin/lang": PROGRAM}
    )
    composed({**script, "/usr/bin/lang": PROGRAM}, interpreters={"/usr/bin/lang": REASON})
    composed({"/usr/share/lib.py": b"#!/usr/bin/python3\n"})  # not executable: nobody starts it


def test_env_names_a_second_interpreter():
    content = {"/usr/bin/tool": (b"#!/usr/bin/env -S A=1 python3 -x\n", 0o755), "/usr/bin/env": PROGRAM}
    text = refused(content, interpreters={"/usr/bin/env": REASON})
    assert "needs the interpreter python3" in text


def test_shebang_lines():
    assert script_interpreter(b"#! /bin/sh -e -x \nrest") == ("/bin/sh", "-e -x")
    assert script_interpreter(b"#!\n") == ()


# units, rules, tmpfiles


@pytest.mark.parametrize(
    "command", ["/usr/bin/gone -x", "-/usr/bin/gone", "@!!/usr/bin/gone x", "gone", "+:gone"]
)
def test_a_unit_whose_program_is_absent(command):
    content = {f"{SYSTEM}/a.service": f"[Service]\nExecStart={command}\n".encode()}
    text = refused(content)
    assert f"{SYSTEM}/a.service (mine 1.0) runs" in text and "gone (ExecStart=)" in text
    composed(content, missing={"gone": REASON})
    composed(content, units={"mask": {"a.service": REASON}})


def test_programs_are_found_by_name_through_links_and_must_be_executable():
    unit = {f"{SYSTEM}/a.service": b"[Service]\nExecStart=tool\n", "/usr/sbin/tool": "-> ../bin/tool"}
    composed({**unit, "/usr/bin/tool": PROGRAM})
    assert "runs tool" in refused({**unit, "/usr/bin/tool": (PROGRAM[0], 0o644)})


def test_a_tolerated_helper_is_a_note():
    content = {
        f"{SYSTEM}/a.service": b"[Service]\nExecStartPre=-plymouth quit\nExecStart=/usr/bin/x\n",
        "/usr/bin/x": PROGRAM,
    }
    assert "runs plymouth (ExecStartPre=)" in composed(content).notes[0]


def test_required_units_must_exist_and_wanted_ones_are_noted():
    unit = b"[Unit]\nRequires=gone.socket system.slice dev-tpm0.device\nWants=wish.service\n"
    content = {f"{SYSTEM}/a.target": unit}
    assert f"{SYSTEM}/a.target (mine 1.0): Requires=gone.socket" in refused(content)
    notes = composed(content, missing={"gone.socket": REASON}).notes
    assert any("Wants=wish.service, which is absent" in note for note in notes)


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        (f"{SYSTEM}/a.service", "[Service]\nUser=ghost\n", "user"),
        (f"{SYSTEM}/a.service", "[Service]\nSupplementaryGroups=root ghost\n", "group"),
        (f"{SYSTEM}/a.socket", "[Socket]\nSocketGroup=ghost\n", "group"),
        ("/usr/lib/udev/rules.d/1.rules", 'KERNEL=="tpm*", OWNER="ghost"\n', "user"),
        ("/usr/lib/udev/rules.d/1.rules", 'KERNEL=="tpm*", \\\n  GROUP:="ghost"\n', "group"),
        ("/usr/lib/tmpfiles.d/1.conf", "d /run/x 0755 ghost root -\n", "user"),
        ("/usr/lib/tmpfiles.d/1.conf", "z /run/x 0755 - :ghost -\n", "group"),
        ("/usr/lib/sysusers.d/1.conf", "g ghost -\n", "group"),
    ],
)
def test_accounts_that_files_name_must_be_pinned(path, text, kind):
    message = refused({path: text.encode()})
    assert f"the {kind} ghost is not pinned by the recipe; expected by {path} (mine 1.0)" in message
    composed({path: text.encode()}, users=[{"name": "ghost", "uid": 700}])


def test_dynamic_users_comments_and_matches_need_no_account():
    composed({
        f"{SYSTEM}/a.service": b"[Service]\nDynamicUser=yes\nUser=ghost\n",
        "/usr/lib/udev/rules.d/1.rules": b'# GROUP="ghost"\nGROUP=="ghost", OWNER="$env{X}"\n',
    })  # fmt: skip


@pytest.mark.parametrize(
    "rule", ['RUN+="/usr/bin/gone -x"', 'PROGRAM=="gone", GOTO="x"', 'IMPORT{program}="gone $devnode"',
             'RUN{program}+="gone"']
)  # fmt: skip
def test_udev_rules_that_run_an_absent_program(rule):
    content = {"/usr/lib/udev/rules.d/1.rules": f'ACTION=="add", {rule}\n'.encode()}
    assert "/usr/lib/udev/rules.d/1.rules (mine 1.0) runs /usr/" in refused(content)
    composed({**content, "/usr/bin/gone": PROGRAM, "/usr/lib/udev/gone": PROGRAM})


def test_udev_builtins_are_no_programs():
    composed({"/usr/lib/udev/rules.d/1.rules": b'IMPORT{builtin}="hwdb", RUN{builtin}+="kmod load"\n'})


# links and privileges


def test_dangling_links():
    text = refused({"/etc/x": "-> ../usr/gone"})
    assert "/etc/x (mine 1.0) links to ../usr/gone" in text
    composed({"/etc/x": "-> ../usr/gone"}, missing={"/usr/gone": REASON})
    composed({"/etc/mtab": "-> ../proc/self/mounts", "/etc/m": "-> /run/x", "/etc/n": "-> /dev/null"})


def test_links_that_never_end():
    assert "mine 1.0 links it to b" in refused({"/etc/a": "-> b", "/etc/b": "-> a"})


@pytest.mark.parametrize(("mode", "bit"), [(0o4755, "setuid"), (0o2755, "setgid")])
def test_setuid_and_setgid_must_be_named(mode, bit):
    content = {"/usr/bin/x": (b"", mode)}
    assert f"/usr/bin/x (mine 1.0) is {bit} ({mode:04o}, 0:0)" in refused(content)
    assert composed(content, setuid={"/usr/bin/x": REASON}).tree["/usr/bin/x"].mode == mode
    assert composed(content, strip_setuid={"/usr/bin/x": REASON}).tree["/usr/bin/x"].mode == 0o755


def test_names_of_files_without_the_bit_are_stale():
    text = refused({"/usr/bin/x": (b"", 0o755)}, setuid={"/usr/bin/x": REASON})
    assert "`setuid` lists /usr/bin/x" in text


def test_stale_permissions_are_noted():
    notes = composed(missing={"libgone.so.1": REASON}, interpreters={"/usr/bin/perl": REASON}).notes
    assert "`missing` lists libgone.so.1, and nothing needs it" in notes
    assert "`interpreters` allows /usr/bin/perl, which the tree does not have" in notes


# kernel


def test_modules_need_a_kernel_and_the_kernel_package_itself_stays_out():
    assert "lists 1 kernel modules, and no kernel package" in refused(None, modules=["erofs"])
    archive, entries = package(
        "linux-image", {"/boot/vmlinuz-6": b"", "/usr/lib/modules/6/kernel/x.ko": module()}
    )
    kernel = KernelPackage(archive=archive, entries=entries)
    assert "/boot" not in composed(None, (archive, entries), kernel=kernel).tree
