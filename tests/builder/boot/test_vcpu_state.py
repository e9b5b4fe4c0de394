"""What a measured vCPU starts with, as QEMU itself says: the signatures of its CPU models, and the state at reset.

KVM copies this state into the VMSA page; what it changes there (CR0, CR4, EFER, XCR0) no QEMU without SEV shows.
"""

import json
import re
import struct

import pytest

from builder.fetch import fetch
from builder.inputs import InputOptions, open_sources
from builder.lock import load_lock
from builder.recipe import find_recipe, load_recipe
from builder.store import Store
from builder.toolbox import unpack_toolbox
from measurements.snp import cpu, vmsa
from measurements.snp.vmsa import Vmm

pytestmark = pytest.mark.integration
#: Of QEMU 10.1; the toolbox has 10.0.
NEWER = {"EPYC-v5", "EPYC-Rome-v5", "EPYC-Milan-v3", "EPYC-Genoa-v2", "EPYC-Turin", "EPYC-Turin-v1"}
SEGMENTS = ("ES", "CS", "SS", "DS", "FS", "GS", "GDT", "LDT", "IDT", "TR")  # in the order of the VMSA


@pytest.fixture(scope="module")
def ask():
    """Return a function that gives QEMU's monitor commands and returns its answers by id."""
    recipe = load_recipe(find_recipe("base"))
    lock, store = load_lock(recipe), Store.default()
    with open_sources(InputOptions(), lock) as sources:
        fetch(lock.archives, store, sources, recipe=recipe.name)
    tools = unpack_toolbox(lock, store)

    def answers(commands, *arguments):
        feed = [{"execute": "qmp_capabilities"}, *commands, {"execute": "quit"}]
        told = tools.run(
            "qemu-system-x86_64", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-machine", "q35",
            *arguments, "-qmp", "stdio", feed="\n".join(map(json.dumps, feed)).encode(), timeout=60,
        ).stdout  # fmt: skip
        return {answer.get("id"): answer for answer in map(json.loads, told.splitlines())}

    return answers


def test_signatures(ask):
    told = ask(
        {
            "execute": "query-cpu-model-expansion",
            "arguments": {"type": "full", "model": {"name": name}},
            "id": name,
        }
        for name in cpu.MODELS
    )
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
