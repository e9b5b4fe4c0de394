import contextlib
import struct
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, LimitError
from measurements.events import EventType
from measurements.formats import bootoption, efivar, eventlog
from measurements.formats.bootoption import LoadOption, Node

EVENTLOG = Path(__file__).parents[2] / "vectors" / "eventlog"
DXEFV = UUID("7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1")
UIAPP = UUID("462caa21-7614-4503-836e-8ab6f4662331")

#: UiApp of edk2 202502 and earlier, as real firmware measures it (measured-boot facts, 2.4).
UIAPP_OPTION = bytes.fromhex(
    "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a1"
    "0406140021aa2c4614760345836e8ab6f46623317fff0400"
)
#: A virtio-blk disk in PCI slot 1, same source.
DISK_PATH = bytes.fromhex("02010c00d041030a00000000 010106000001 7fff0400")


def measured_options(name):
    log = eventlog.parse((EVENTLOG / f"{name}.bin").read_bytes())
    variables = [efivar.parse_variable(r.data) for r in log.records if r.type == EventType.EFI_VARIABLE_BOOT]
    return {v.name: v.data for v in variables if v.name != "BootOrder"}


def test_built_option_is_what_firmware_measures():
    option = LoadOption(
        attributes=bootoption.LOAD_OPTION_ACTIVE
        | bootoption.LOAD_OPTION_HIDDEN
        | bootoption.LOAD_OPTION_CATEGORY_APP,
        description="UiApp",
        path=(Node.firmware_volume(DXEFV), Node.firmware_file(UIAPP), Node.end()),
    )
    assert option.encode() == UIAPP_OPTION
    assert bootoption.parse_load_option(UIAPP_OPTION) == option


def test_built_disk_path_is_what_firmware_measures():
    path = (Node.pci_root(0), Node.pci(1, 0), Node.end())
    assert bootoption.encode_device_path(path) == DISK_PATH
    assert bootoption.parse_device_path(DISK_PATH) == path


# Device paths as `efibootmgr -v` and UEFI 2.10, 10.6 write them.
@pytest.mark.parametrize(
    ("name", "texts"),
    [
        (
            "qemu-ovmf-2025.02",
            {
                "Boot0000": f"UiApp: Fv({DXEFV})/FvFile({UIAPP})",
                "Boot0001": "UEFI Misc Device: PciRoot(0x0)/Pci(0x1,0x0) + 16 bytes",
            },
        ),
        (
            "qemu-ovmf-2026.08",
            {
                "Boot0000": f"BootManagerMenuApp: Fv({DXEFV})/FvFile(eec25bdc-67f2-4d95-b1d5-f81b2039d11d)",
                "Boot0001": f"EFI Firmware Setup: Fv({DXEFV})/FvFile({UIAPP})",
                "Boot0002": "UEFI Misc Device: PciRoot(0x0)/Pci(0x1,0x0) + 16 bytes",
            },
        ),
    ],
)
def test_options_of_recorded_boots(name, texts):
    options = measured_options(name)
    for data in options.values():
        assert bootoption.parse_load_option(data).encode() == data
    for variable, text in texts.items():
        assert bootoption.parse_load_option(options[variable]).text() == text


UNIQUE = UUID("aaaaaaaa-2222-3333-4444-555555555555")


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (Node.acpi(0x0A08, 1), "Acpi(PNP0A08,0x1)"),
        (Node(type=2, subtype=1, data=struct.pack("<II", 0x12345678, 0)), "Acpi(0x12345678,0x0)"),
        (Node.hard_drive(number=1, first_block=2048, blocks=65536, unique=UNIQUE), f"HD(1,GPT,{UNIQUE},0x800,0x10000)"),
        (Node(type=4, subtype=1, data=bytes(20) + b"\x78\x56\x34\x12" + bytes(12) + b"\1\1"),
         "HD(0,MBR,0x12345678,0x0,0x0)"),
        (Node.file_path("\\EFI\\BOOT\\BOOTX64.EFI"), "\\EFI\\BOOT\\BOOTX64.EFI"),
        (Node(type=3, subtype=2, data=struct.pack("<HH", 3, 1)), "Scsi(0x3,0x1)"),
        (Node(type=3, subtype=18, data=struct.pack("<HHH", 1, 0xFFFF, 0)), "Sata(0x1,0xFFFF,0x0)"),
        (Node(type=3, subtype=23, data=struct.pack("<I", 1) + bytes(range(8))), "NVMe(0x1,07-06-05-04-03-02-01-00)"),
        (Node(type=4, subtype=3, data=DXEFV.bytes_le), f"VenMedia({DXEFV})"),
        (Node(type=4, subtype=3, data=DXEFV.bytes_le + b"\xab"), f"VenMedia({DXEFV},ab)"),
        (Node(type=1, subtype=1, data=b"\1"), "Path(1,1,01)"),
        (Node(type=9, subtype=8, data=b"\xab\xcd"), "Path(9,8,ABCD)"),
    ],
)  # fmt: skip
def test_text(node, text):
    assert bootoption.device_path_text((node, Node.end())) == text
    assert bootoption.parse_device_path(node.encode() + Node.end().encode()) == (node, Node.end())


def test_text_of_a_path_with_instances():
    path = (Node.pci_root(), Node(type=0x7F, subtype=1), Node.pci(1, 2), Node.end())
    assert bootoption.device_path_text(path) == "PciRoot(0x0),Pci(0x1,0x2)"


def test_option_with_several_paths():
    path, other = (Node.pci(1, 0), Node.end()), (Node.pci(2, 0), Node.end())
    option = LoadOption(
        attributes=1, description="two", path=path, other_paths=(other,), optional_data=b"data"
    )
    assert bootoption.parse_load_option(option.encode()) == option
    many = LoadOption(attributes=1, description="", path=path, other_paths=(other,) * bootoption.MAX_PATHS)
    with pytest.raises(LimitError, match="device paths"):
        bootoption.parse_load_option(many.encode())


@pytest.mark.parametrize(
    "path", [(), (Node.pci(1, 0),), (Node.end(), Node.end()), (Node.end(), Node.pci(1, 0))]
)
def test_path_to_encode_ends_once(path):
    with pytest.raises(FormatError, match="ends with one end node"):
        bootoption.encode_device_path(path)


def test_sizes_that_their_fields_cannot_state():
    with pytest.raises(LimitError):
        Node(type=9, subtype=9, data=bytes(65532)).encode()
    big = Node(type=9, subtype=9, data=bytes(40000))
    with pytest.raises(LimitError):
        LoadOption(attributes=0, description="", path=(big, big, Node.end())).encode()


CORRUPT = {
    "empty": b"",
    "description-without-end": UIAPP_OPTION[:10],
    "path-cut": UIAPP_OPTION[:-1],
    "node-shorter-than-its-header": bytes(4) + b"\4\0" + b"\0\0" + b"\1\1\3\0",
    "path-without-end": bytes(4) + b"\4\0" + b"\0\0" + b"\1\1\4\0",
    "no-path": bytes(4) + b"\0\0" + b"\0\0",
}


@pytest.mark.parametrize("name", sorted(CORRUPT))
def test_corrupt_option(name):
    with pytest.raises(FormatError):
        bootoption.parse_load_option(CORRUPT[name])


def test_limits():
    with pytest.raises(LimitError, match="boot option has"):
        bootoption.parse_load_option(bytes(bootoption.MAX_OPTION_SIZE + 1))
    with pytest.raises(LimitError, match="nodes"):
        bootoption.parse_device_path(Node.pci(1, 0).encode() * (bootoption.MAX_NODES + 1))
    with pytest.raises(FormatError, match="follow the end node"):
        bootoption.parse_device_path(DISK_PATH + b"\0")


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 61), st.integers(0, 255)), max_size=4), st.integers(0, 62))
def test_mutations_never_escape(changes, length):
    data = bytearray(UIAPP_OPTION)
    for offset, value in changes:
        data[offset] = value
    with contextlib.suppress(FormatError):
        option = bootoption.parse_load_option(bytes(data[:length]))
        assert option.encode() == data[:length]
        option.text()


@given(st.binary(max_size=300))
def test_random_bytes_never_escape(data):
    for parse in (bootoption.parse_load_option, bootoption.parse_device_path):
        with contextlib.suppress(FormatError):
            parse(data)
