"""What recipes/base asks for, as the merged recipe has it: no store and no build are needed."""

import configparser
import hashlib
import re
from pathlib import Path

import pytest

from builder.boot.debug import COMMAND_LINE
from builder.recipe import find_recipe, load_recipe

REPOSITORY = Path(__file__).parents[3]
RECIPE = load_recipe(find_recipe("base", base=Path(__file__).parent))
ROOT = {file.path: file.content.decode() for file in RECIPE.files["root"]}
INITRD = {file.path: file.content.decode() for file in RECIPE.files["initrd"]}
SYSTEM = "/usr/lib/systemd/system"
OURS = [path for path in ROOT if path.startswith(f"{SYSTEM}/goldsmith-") and path.endswith(".service")]


def settings():
    lines = [line for line in ROOT["/usr/lib/sysctl.d/50-goldsmith.conf"].splitlines() if line]
    pairs = [line.split("=", 1) for line in lines if not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs)
    return [(key.strip(), value.strip()) for key, value in pairs]


def unit(text):
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str
    parser.read_string(text)
    return parser


def test_the_debug_boots_console_is_the_only_extension():
    assert RECIPE.variables["debug_command_line"] == COMMAND_LINE
    sealed, debug = ROOT["/usr/lib/goldsmith/hardening/command-line"].splitlines()
    assert sealed.split() == list(RECIPE.command_line)
    assert debug == COMMAND_LINE


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_the_initrd_knows_pcr_12_of_that_console(bank):
    """systemd-stub(7): the text in UTF-16 with its end is one event; TPM 2.0 Part 1, 17.2: an extend."""
    size = hashlib.new(bank).digest_size
    event = hashlib.new(bank, f"{COMMAND_LINE}\0".encode("utf-16-le")).digest()
    value = hashlib.new(bank, bytes(size) + event).hexdigest()
    rules = INITRD["/usr/lib/udev/rules.d/61-goldsmith-command-line.rules"].replace("\\\n", "")
    (rule,) = [line for line in rules.splitlines() if f"pcr-{bank}/12" in line and line[0] != "#"]
    accepted = re.findall(rf'ATTR\{{pcr-{bank}/12\}}!="([0-9A-F]+)"', rule)
    assert accepted == ["0" * (2 * size), value.upper()]
    assert 'RUN+="/usr/bin/systemctl --force poweroff"' in rule
    assert "/usr/bin/systemctl" in {path for item in RECIPE.initrd.exclude for path in item.keep}


def test_command_line_names_each_parameter_once():
    names = [word.partition("=")[0] for word in RECIPE.command_line]
    assert len(names) == len(set(names))
    # COMMAND_LINE_SIZE of x86 (arch/x86/include/asm/setup.h) is 2048, root hash and debug console included.
    assert len(" ".join([*RECIPE.command_line, "roothash=" + 64 * "0", COMMAND_LINE])) < 2048


def test_settings_are_named_once_and_none_may_fail():
    keys = [key for key, _ in settings()]
    assert len(keys) == len(set(keys)) > 50
    assert not any(key.startswith("-") for key in keys), "a setting that may fail is no setting"


def test_every_module_is_loaded_before_the_latch():
    """kernel.modules_disabled is set by systemd-sysctl, which runs after systemd-modules-load (its unit says so)."""
    assert ("kernel.modules_disabled", "1") in settings()
    lines = ROOT["/usr/lib/modules-load.d/goldsmith.conf"].splitlines()
    loaded = {line for line in lines if line and line[0] != "#"}
    # Built into Debian's cloud kernel (modules.builtin).
    assert {name.replace("-", "_") for name in RECIPE.root.modules} - {"virtio_console"} == loaded


def test_whatever_is_not_named_is_dropped_in_both_families():
    rules = ROOT["/usr/lib/goldsmith/firewall/rules.nft"]
    assert re.findall(r"^table (\S+)", rules, re.MULTILINE) == ["inet"], "one table for IPv4 and IPv6"
    hooks = re.findall(r"type filter hook (\w+) priority filter; policy (\w+);", rules)
    assert hooks == [("input", "drop"), ("forward", "drop"), ("output", "drop")]
    opened = ROOT["/usr/lib/goldsmith/firewall/services/evidence.nft"]
    assert opened == f"add element inet goldsmith tcp_services {{ {RECIPE.variables['evidence_port']} }}\n"


def test_firewall_and_read_back_hold_up_the_boot():
    for name in ("goldsmith-firewall", "goldsmith-readback"):
        parsed = unit(ROOT[f"{SYSTEM}/{name}.service"])
        assert parsed["Unit"]["FailureAction"] == "poweroff-force"
        assert "sysinit.target" in parsed["Unit"]["Before"]
        assert parsed["Install"]["RequiredBy"] == "sysinit.target"
        assert f"{name}.service" in RECIPE.root.units.enable
        assert "network-pre.target" in parsed["Unit"]["Before"]
    readback = unit(ROOT[f"{SYSTEM}/goldsmith-readback.service"])["Unit"]
    needed = {"goldsmith-firewall.service", "systemd-sysctl.service", "systemd-modules-load.service"}
    assert needed <= set(readback["Wants"].split()) & set(readback["After"].split())
    assert "Requires" not in readback, (
        "where one of these fails, the read-back would not run, and nothing would stop"
    )


@pytest.mark.parametrize("path", OURS)
def test_our_services_are_boxed_in(path):
    service = unit(ROOT[path])["Service"]
    for key in ("NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute", "RestrictSUIDSGID"):
        assert service[key] == "yes", key
    assert "CapabilityBoundingSet" in service and "SystemCallFilter" in service
    assert service["SystemCallArchitectures"] == "native"


@pytest.mark.parametrize("path", [path for path in ROOT if path.endswith(".mount") or ".mount.d/" in path])
def test_our_mounts_run_nothing(path):
    options = unit(ROOT[path])["Mount"]["Options"].split(",")
    assert {"noexec", "nosuid", "nodev"} <= set(options)


def test_the_roots_places_are_closed_before_there_is_a_root():
    """systemd leaves alone what is mounted at its own places (switch_root of systemd 257, src/shared/switch-root.c)."""
    mounts = {}
    for path, text in INITRD.items():
        if path.startswith(f"{SYSTEM}/sysroot-"):
            parsed = unit(text)
            mounts[parsed["Mount"]["Where"]] = set(parsed["Mount"]["Options"].split(","))
            assert parsed["Install"]["RequiredBy"] == parsed["Unit"]["Before"] == "initrd-root-fs.target"
            assert path.rpartition("/")[2] in RECIPE.initrd.units.enable
    closed = {"bind", "noexec", "nosuid", "nodev"}
    assert mounts == {
        "/sysroot/dev": closed - {"nodev"},
        "/sysroot/dev/shm": closed,
        "/sysroot/run": closed,
        "/sysroot/etc/machine-id": closed | {"ro"},
    }
