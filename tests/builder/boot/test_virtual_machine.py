"""The virtual machine's arguments, and where OVMF puts PCI BARs."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from builder.artifacts import Firmware, Machine
from builder.boot import pci
from builder.boot.qemu import DISK_SLOT, Wiring, device_arguments, qemu_arguments
from builder.boot.qtest import tables_key
from builder.errors import UsageError
from builder.tools import Tools
from measurements.errors import NotPredictableError
from measurements.prediction import BootPath

GIB = 1 << 30
MACHINE = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=2048, vcpus=2)
FIRMWARE = Firmware(
    name="f", package="p", version="1", code=Path("/f/code,1.fd"), variables=Path("/f/vars.fd")
)
WIRING = Wiring(tpm=Path("/t/tpm"), variables=Path("/t/vars"))


def arguments(boot=BootPath.DISK, machine=MACHINE, **wiring):
    return qemu_arguments(machine, FIRMWARE, boot, replace(WIRING, **wiring), accelerator="tcg")


def values(args, option):
    return [value for name, value in itertools.pairwise(args) if name == option]


def devices(args):
    return values(args, "-device")


def test_every_pci_device_has_its_own_fixed_slot():
    slots = [
        part for device in devices(arguments()) for part in device.split(",") if part.startswith("addr=")
    ]
    assert slots == [f"addr=0x{DISK_SLOT:02x}", "addr=0x02", "addr=0x03"]


def test_wiring_changes_no_device():
    """Whatever is connected, the guest sees one machine: else a prediction would be about another one."""
    wired = arguments(
        disk=Path("/d.raw"),
        console="stdio",
        evidence=Path("/e.sock"),
        forward=(1234, 8440),
        memory=Path("/m"),
    )
    bare = arguments()
    plugged = arguments(wire=Path("/w.sock"))
    for option in ("-device", "-cpu", "-smp", "-m", "-serial", "-tpmdev"):
        assert values(wired, option) == values(bare, option) == values(plugged, option)


def test_only_a_live_test_has_a_command_channel():
    """One port more on the same device: no slot, so no table, moves."""
    with_channel = devices(arguments(channel=Path("/c.sock")))
    assert [each for each in with_channel if "org.goldsmith.live.0" in each]
    assert not [each for each in devices(arguments()) if "live" in each]
    pci_devices = [each.partition(",")[0] for each in with_channel if "addr=" in each]
    assert pci_devices == [each.partition(",")[0] for each in devices(arguments()) if "addr=" in each]


def test_disk_and_direct_boots_have_the_same_devices():
    direct = arguments(BootPath.DIRECT, uki=Path("/uki.efi"))
    assert devices(direct) == devices(arguments())
    assert values(direct, "-kernel") == ["/uki.efi"]


def test_the_guest_cannot_write_what_is_released():
    args = arguments(disk=Path("/release/disk.raw"))
    drives = values(args, "-drive")
    assert any("readonly=on" in drive and "unit=0" in drive for drive in drives), "firmware code"
    assert [drive for drive in drives if "/release/disk.raw" in drive and "snapshot=on" in drive]


def test_the_guest_reaches_no_network_and_no_rom_is_measured():
    args = arguments(forward=(1234, 8440))
    assert values(args, "-netdev") == [
        "user,restrict=on,ipv4=on,ipv6=on,hostfwd=tcp:127.0.0.1:1234-:8440,id=network"
    ]
    assert any(device.startswith("virtio-net-pci") and ",romfile=," in device for device in devices(args))


def test_a_wire_of_ones_own_takes_the_place_of_the_network_and_forwards_nothing():
    assert values(arguments(wire=Path("/w,1.sock")), "-netdev") == [
        "stream,server=off,addr.type=unix,addr.path=/w,,1.sock,id=network"
    ]
    with pytest.raises(UsageError, match="forwards ports"):
        arguments(wire=Path("/w"), forward=(1234, 8440))


def test_the_host_gives_the_guest_neither_vendor_nor_address_width():
    assert values(arguments(), "-cpu") == ["qemu64,vendor=AuthenticAMD,phys-bits=40,host-phys-bits=off"]


def test_commas_in_paths_are_escaped():
    assert any("file=/f/code,,1.fd" in drive for drive in values(arguments(), "-drive"))


def test_more_devices_follow_in_their_order():
    machine = replace(MACHINE, devices=("virtio-rng-pci,addr=0x04", "virtio-balloon-pci,addr=0x05"))
    assert devices(arguments(machine=machine))[-2:] == list(machine.devices)


def test_a_direct_boot_needs_a_uki():
    with pytest.raises(UsageError, match="UKI"):
        arguments(BootPath.DIRECT)


def test_the_key_of_cached_tables_covers_what_they_depend_on():
    tools = Tools(root=None, digest="one")
    base = tables_key(tools, MACHINE, BootPath.DISK)
    assert base == tables_key(tools, MACHINE, BootPath.DISK)
    others = [
        tables_key(replace(tools, digest="two"), MACHINE, BootPath.DISK),
        tables_key(tools, replace(MACHINE, memory_mib=4096), BootPath.DISK),
        tables_key(tools, replace(MACHINE, vcpus=4), BootPath.DISK),
        tables_key(tools, MACHINE, BootPath.DIRECT),
        tables_key(tools, MACHINE, BootPath.DISK, pciexbar=0xB0000000),
    ]
    assert len({base, *others}) == 6


RAM_2G = pci.E820Entry(base=0, length=2 * GIB, type=1)
#: QEMU's e820 entry below 1 TiB on AMD CPUs (hw/i386/pc.c: HyperTransport range, 12 GiB).
HYPERTRANSPORT = pci.E820Entry(base=0xFD00000000, length=0x300000000, type=2)


def test_amd_window_moves_below_the_hypertransport_range():
    """0xC000000000: read from a real OVMF's BARs with 40 bits (specification of measured boot, 2.4)."""
    base = pci.mmio64_window(
        (RAM_2G, HYPERTRANSPORT), pci.Processor(vendor="AuthenticAMD", address_bits=40)
    ).base
    assert base == 0xC000000000


@pytest.mark.parametrize(
    ("vendor", "bits", "memory_end", "expected"),
    [
        # edk2 MemDetect.c by hand: a trusted width gives the top eighth of the address space.
        ("AuthenticAMD", 40, 6 * GIB, (1 << 40) - (1 << 37)),
        ("GenuineIntel", 39, 6 * GIB, (1 << 39) - (1 << 36)),
        # 40 bits are not believed of an Intel CPU: the classic 32 GiB window, aligned to its size.
        ("GenuineIntel", 40, 6 * GIB, 32 * GIB),
        ("GenuineIntel", 40, 33 * GIB, 64 * GIB),
        # 36 bits: an eighth is 8 GiB, smaller than the default window, so classic again.
        ("GenuineIntel", 36, 6 * GIB, 32 * GIB),
        # above 40 the width is cut to 40, as 1 GiB pages are not used.
        ("AuthenticAMD", 48, 6 * GIB, (1 << 40) - (1 << 37)),
    ],
)
def test_window_follows_width_and_memory(vendor, bits, memory_end, expected):
    ram = pci.E820Entry(base=4 * GIB, length=memory_end - 4 * GIB, type=1)
    assert pci.mmio64_window((RAM_2G, ram), pci.Processor(vendor=vendor, address_bits=bits)).base == expected


@pytest.mark.parametrize("bits", [46, 52])
def test_gigabyte_pages_lift_the_window(bits):
    """Read from the BARs of Debian's OVMF 2025.02 and 2026.08 in QEMU: -cpu qemu64,+pdpe1gb,phys-bits=46 and 52."""
    processor = pci.Processor(vendor="GenuineIntel", address_bits=bits, gigabyte_pages=True)
    assert pci.mmio64_window((RAM_2G,), processor).base == 0x380000000000


def test_reserved_memory_pushes_the_classic_window_up():
    processor = pci.Processor(vendor="GenuineIntel", address_bits=40)
    base = pci.mmio64_window((RAM_2G,), processor, reserved_end=70 * GIB).base
    assert base == 96 * GIB


def test_bars_are_placed_largest_first_and_aligned_to_their_size():
    small = pci.Bar(device=1, function=0, register=0x20, size=0x4000)
    large = pci.Bar(device=2, function=0, register=0x20, size=0x100000)
    equal = pci.Bar(device=3, function=0, register=0x20, size=0x4000)
    placed = pci.place([small, large, equal], 0xC000000000)
    assert placed == {large: 0xC000000000, small: 0xC000100000, equal: 0xC000104000}


def gpu(slot, *sizes):
    """A passed-through card as firmware finds it: BARs 0, 2, 4."""
    return [
        pci.Bar(device=slot, function=0, register=0x10 + 8 * at, size=size) for at, size in enumerate(sizes)
    ]


def test_cards_take_the_place_of_their_stand_ins():
    """Placement is that of the cards' own BARs, whichever of them the stand-in has."""
    disk = pci.Bar(device=1, function=0, register=0x20, size=0x4000)
    sizes = (1 << 24, 1 << 37, 1 << 25)
    stand_in = [pci.Bar(device=slot, function=0, register=0x18, size=1 << 37) for slot in (16, 17)]
    found = pci.place(pci.with_cards([disk, *stand_in], {16: sizes, 17: sizes}), 7 << 43)
    real = pci.place([disk, *gpu(16, *sizes), *gpu(17, *sizes)], 7 << 43)
    assert sorted(found.values()) == sorted(real.values())
    assert {address for bar, address in found.items() if bar.register >= 0} == {
        address for bar, address in real.items() if bar.size in (1 << 37, 0x4000)
    }


def test_bars_that_do_not_fit_and_bars_that_no_stand_in_shows():
    window = pci.mmio64_window(
        (RAM_2G, HYPERTRANSPORT), pci.Processor(vendor="AuthenticAMD", address_bits=40)
    )
    assert window.length == 128 * GIB
    with pytest.raises(NotPredictableError, match="128 GiB"):
        pci.check(pci.place(gpu(16, 1 << 37, 1 << 25), window.base), window)
    alone = pci.with_cards(gpu(16, 1 << 30), {16: (1 << 30, 1 << 25)})
    with pytest.raises(NotPredictableError, match="which no stand-in has"):
        pci.check(pci.place(alone, window.base), window)
    pci.check({}, window)


def test_stand_ins_of_gpus_lie_in_slots_of_their_own():
    machine = Machine(
        type="pc-q35-10.0", cpu="qemu64", memory_mib=512, vcpus=1, gpus=((1 << 24, 1 << 30),) * 2
    )
    given = device_arguments(machine, Wiring(tpm=Path("tpm"), variables=Path("vars")))
    stand_ins = [item for item in given if item.startswith("pci-testdev")]
    assert stand_ins == [f"pci-testdev,addr=0x{slot},membar={1 << 30}" for slot in (10, 11)]
