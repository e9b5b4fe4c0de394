"""SEV-SNP, as far as QEMU itself says something about it on a host without.

The signatures of its CPU models, the state at reset, and that its sev-snp-guest object takes an ID block. KVM copies
that state into the VMSA page; what it changes there (CR0, CR4, EFER, XCR0) no QEMU without SEV shows.
"""

import json
import re
import struct

import pytest

from builder.cli import run
from builder.errors import ToolError
from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import unpack_toolbox
from measurements.keys import KeyAlgorithm, generate
from measurements.snp import cpu, vmsa
from measurements.snp.vmsa import Vmm

pytestmark = pytest.mark.integration
#: Of QEMU 10.1; the toolbox has 10.0.
NEWER = {"EPYC-v5", "EPYC-Rome-v5", "EPYC-Milan-v3", "EPYC-Genoa-v2", "EPYC-Turin", "EPYC-Turin-v1"}
SEGMENTS = ("ES", "CS", "SS", "DS", "FS", "GS", "GDT", "LDT", "IDT", "TR")  # in the order of the VMSA


@pytest.fixture(scope="module")
def toolbox():
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    return unpack_toolbox(lock, store)


@pytest.fixture(scope="module")
def ask(toolbox):
    """Return a function that gives QEMU's monitor commands and returns its answers by id."""

    def answers(commands, *arguments):
        feed = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
        told = toolbox.run(
            "qemu-system-x86_64", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-machine", "q35",
            *arguments, "-qmp", "stdio", feed="\n".join(map(json.dumps, feed)).encode(), timeout=60,
        ).stdout  # fmt: skip
        return {answer.get("id"): answer for answer in map(json.loads, told.splitlines())}

    return answers


def test_signatures(ask):
    told = {}
    for name in cpu.MODELS:
        # One answer fits a pipe. Of several, QEMU drops what a busy reader has not taken when it quits.
        arguments = {"type": "full", "model": {"name": name}}
        told |= ask([{"execute": "query-cpu-model-expansion", "arguments": arguments, "id": name}])
    found = {}
    for name in cpu.MODELS:
        if "error" in told[name]:
            assert name in NEWER, told[name]
            continue
        of = told[name]["return"]["model"]["props"]
        found[name] = cpu.signature(family=of["family"], model=of["model"], stepping=of["stepping"])
    assert found == {name: cpu.MODELS[name] for name in found} and len(found) >= 15


def registers(text):
    """Return (segments, other registers) of ``info registers``."""
    segments = {}
    for name in SEGMENTS:
        (line,) = re.findall(rf"^{name} *=(.*)$", text, re.MULTILINE)
        numbers = [int(part, 16) for part in line.split()]
        selector, base, limit, flags = numbers if len(numbers) == 4 else (0, *numbers, 0)
        # The VMCB packs bits 8 to 15 and 20 to 23 of a descriptor.
        segments[name] = (selector, flags >> 8 & 0xFF | flags >> 12 & 0xF00, limit, base)
    return segments, {name: int(value, 16) for name, value in re.findall(r"([A-Z0-9]+)=([0-9a-f]+)", text)}


@pytest.mark.parametrize("model", ["EPYC-Milan", "EPYC-v4", "EPYC-Genoa"])
def test_state_at_reset(ask, model):
    command = {"execute": "human-monitor-command", "arguments": {"command-line": "info registers"}, "id": 1}
    segments, others = registers(ask([command], "-cpu", model)[1]["return"])
    page = vmsa.reset_page(Vmm.QEMU, start=vmsa.RESET_VECTOR, signature=cpu.MODELS[model], features=1)
    assert dict(zip(SEGMENTS, struct.iter_unpack("<HHIQ", page[:0xA0]), strict=True)) == segments
    for name, offset, size in (
        ("EDX", 0x310, 8), ("EIP", 0x178, 8), ("EFL", 0x170, 8), ("DR6", 0x168, 8), ("DR7", 0x160, 8),
        ("FCW", 0x410, 2), ("MXCSR", 0x408, 4),
    ):  # fmt: skip
        assert int.from_bytes(page[offset : offset + size], "little") == others[name], name
    # KVM leaves out cache disable and not-write-through.
    assert int.from_bytes(page[0x158:0x160], "little") == others["CR0"] & ~0x60000000


def refusal(toolbox, properties):
    """Return why QEMU, which has no SEV-SNP here, does not start a guest with these properties."""
    with pytest.raises(ToolError) as caught:
        toolbox.run(
            "qemu-system-x86_64", "-accel", "tcg", "-S", "-display", "none", "-nodefaults",
            "-machine", "q35,confidential-guest-support=snp",
            "-object", f"{properties},id=snp,cbitpos=51,reduced-phys-bits=1", timeout=60,
        )  # fmt: skip
    return str(caught.value)


def test_qemu_takes_id_blocks(toolbox, tmp_path, capfd):
    for name in ("id", "author"):
        (tmp_path / f"{name}.pem").write_bytes(generate(KeyAlgorithm.ECDSA_P384).pem())
    names = [str(tmp_path / f"{name}.pem") for name in ("id", "author")]
    assert run(["snp", "id-block", "ab" * 48, "--key", names[0], "--author-key", names[1]]) == 0
    properties = capfd.readouterr().out.strip()
    # All that it misses is the hardware.
    assert "KVM required" in refusal(toolbox, properties)
    assert "not equal to 96" in refusal(toolbox, properties.replace("id-block=", "id-block=AAAA"))
    assert "ID_AUTH 4099 exceeds max of 4096" in refusal(
        toolbox, properties.replace("id-auth=", "id-auth=AAAA")
    )
