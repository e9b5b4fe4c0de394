"""udev rules and unit files, as the audit reads them."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.audit.modules import kernel_payload, verify
from builder.audit.readers.tree import File, FileTree
from builder.audit.udev import accepted_pcr_12, guards_pcr_12, parse_rules
from builder.audit.units import load_units, pulled_in, settings_of, sysctl_settings
from measurements.errors import FormatError, SignatureError

GUARD = Path(__file__).parents[3] / "recipes/common/hardening/61-goldsmith-command-line.rules"
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def tree(**files: str) -> FileTree:
    """Files by path with "/" as "__"; a value that begins with -> is a link."""
    found: dict[str, File | None] = {}
    for name, content in files.items():
        link = content.startswith("->")
        found["/" + name.replace("__", "/").replace("DOT", ".").replace("DASH", "-")] = File(
            mode=(stat.S_IFLNK if link else stat.S_IFREG) | 0o644, content=content.removeprefix("->").encode()
        )
    return FileTree({"/": File(mode=stat.S_IFDIR | 0o755)}).replaced(found)


def test_the_guard_as_the_recipe_has_it():
    rules = parse_rules("/61.rules", GUARD.read_text())
    assert [rule.where for rule in rules] == ["/61.rules:4", "/61.rules:7"]
    assert guards_pcr_12(rules[0], "sha256") and not guards_pcr_12(rules[0], "sha384")
    assert guards_pcr_12(rules[1], "sha384")
    assert len(rules[0].refused("pcr-sha256/12")) == 2


def test_the_accepted_values_of_pcr_12():
    """vectors: what a debug boot's TPM held (docs/adr/0011), as the recipe pins it."""
    from builder.boot.debug import COMMAND_LINE

    assert accepted_pcr_12("sha256", COMMAND_LINE) == {
        "0" * 64, "A52894315851A3A182FE53DF2694668B58C0713BB223C2A7EE63FC3C3E69DDCA",
    }  # fmt: skip
    assert accepted_pcr_12("sha384", "") == {"0" * 96}


@pytest.mark.parametrize(
    "line", ["SUBSYSTEM", 'SUBSYSTEM=="tpm" nonsense', 'A=="x', 'RUN+="x" "y"', 'x=="y"', 'A=="b", \\']
)
def test_rules_that_do_not_parse(line):
    with pytest.raises(FormatError):
        parse_rules("/x.rules", line)


@fuzz
@given(st.text(max_size=200))
def test_random_rules_never_escape(text):
    with contextlib.suppress(FormatError):
        parse_rules("/x.rules", text)


def test_units_with_drop_ins_aliases_and_masks():
    files = tree(
        usr__lib__systemd__system__aDASHbDOTservice=(
            "[Unit]\nAfter=x\n[Service]\nExecStart=-/usr/bin/x --y\nUMask=0077\n"
        ),
        etc__systemd__system__aDASHDOTserviceDOTd__10DOTconf="[Service]\nUMask=0022\n",
        usr__lib__systemd__system__serviceDOTd__20DOTconf="[Unit]\nAfter=\nAfter=z\n",
        etc__systemd__system__mDOTservice="->/dev/null",
        etc__systemd__system__otherDOTservice="->/usr/lib/systemd/system/a-b.service",
        etc__systemd__system__xDOTtargetDOTrequires__aDASHbDOTservice="->/usr/lib/systemd/system/a-b.service",
    )
    units = load_units(files)
    assert set(units) == {"a-b.service", "m.service", "other.service"}
    unit = units["a-b.service"]
    assert (unit.value("Service", "UMask"), unit.words("Unit", "After")) == ("0022", ("z",))
    assert list(unit.programs()) == [("ExecStart", "/usr/bin/x --y")]
    assert units["m.service"].masked and units["other.service"].alias_of == "a-b.service"
    assert pulled_in(files) == {"a-b.service": {("x.target", "requires")}}


def test_settings_come_from_every_folder_and_the_last_counts():
    files = tree(
        usr__lib__sysctlDOTd__50DOTconf="a.b = 1\n# c = 2\nnet/x=  3  4\n",
        etc__sysctlDOTd__60DOTconf="a.b = 2\n",
        usr__lib__sysctlDOTd__60DOTconf="a.b = 3\n",
        etc__systemd__systemDOTconf="[Manager]\nDumpCore=yes\n",
        usr__lib__systemd__systemDOTconfDOTd__xDOTconf="[Manager]\nDumpCore=no\n",
    )
    assert sysctl_settings(files) == {
        "a.b": ("2", "/etc/sysctl.d/60.conf"), "net.x": ("3 4", "/usr/lib/sysctl.d/50.conf"),
    }  # fmt: skip
    assert settings_of(files, "system.conf")[-1] == ("Manager", "DumpCore", "no")


def test_a_unit_that_does_not_parse_is_an_error():
    with pytest.raises(FormatError):
        load_units(tree(usr__lib__systemd__system__xDOTservice="nonsense\n"))


@fuzz
@given(st.binary(max_size=600), st.binary(max_size=100))
def test_random_modules_and_kernels_never_escape(data, tail):
    magic = b"~Module signature appended~\n"
    for module in (data, data + magic, data + b"\0\0\2\0\0\0\0\0" + len(tail).to_bytes(4, "big") + magic):
        with pytest.raises((FormatError, SignatureError)):
            verify(module, data, "x.ko")
    with pytest.raises(FormatError):
        kernel_payload(data)
