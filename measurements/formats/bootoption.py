"""Boot options (EFI_LOAD_OPTION, UEFI 2.10, 3.1.3) and their device paths (UEFI 2.10, chapter 10)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import FormatError, LimitError
from measurements.formats.reader import Reader

MAX_OPTION_SIZE: Final = 64 << 10
MAX_NODES: Final = 128
MAX_PATHS: Final = 16

LOAD_OPTION_ACTIVE: Final = 0x00000001
LOAD_OPTION_HIDDEN: Final = 0x00000008
LOAD_OPTION_CATEGORY_APP: Final = 0x00000100

_NODE_HEADER_SIZE = 4
_END = (0x7F, 0xFF)
_END_INSTANCE = (0x7F, 0x01)
_PCI = (0x01, 0x01)
_ACPI = (0x02, 0x01)
_SCSI = (0x03, 0x02)
_NVME = (0x03, 0x17)
_MAC = (0x03, 0x0B)
_IPV4 = (0x03, 0x0C)
_IPV6 = (0x03, 0x0D)
_URI = (0x03, 0x18)
_ETHERNET = 1
_IPV6_PREFIX_LENGTH = 64
_SATA = (0x03, 0x12)
_HARD_DRIVE = (0x04, 0x01)
_VENDOR_MEDIA = (0x04, 0x03)
_FILE_PATH = (0x04, 0x04)
_FV_FILE = (0x04, 0x06)
_FV = (0x04, 0x07)
#: EISA id "PNP" of an ACPI node; the number is in the upper 16 bits.
_PNP = 0x41D0
_PCI_ROOT = 0x0A03


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One device path node: type, sub-type, and the bytes after its 4-byte header."""

    type: int
    subtype: int
    data: bytes = b""

    def encode(self) -> bytes:
        """Return the node with its header.

        Raises:
            LimitError: more data than a node's 16-bit length can state.
        """
        size = _NODE_HEADER_SIZE + len(self.data)
        if size > 0xFFFF:
            raise LimitError(f"device path node of {size} bytes; a node holds at most 65535")
        return struct.pack("<BBH", self.type, self.subtype, size) + self.data

    @classmethod
    def acpi(cls, hid: int, uid: int) -> Node:
        """ACPI device of EISA id PNP``hid`` (UEFI 2.10, 10.3.3)."""
        return cls(type=_ACPI[0], subtype=_ACPI[1], data=struct.pack("<II", hid << 16 | _PNP, uid))

    @classmethod
    def pci_root(cls, uid: int = 0) -> Node:
        """PCI root bridge ``uid``: ACPI PNP0A03."""
        return cls.acpi(_PCI_ROOT, uid)

    @classmethod
    def pci(cls, device: int, function: int) -> Node:
        """PCI function (UEFI 2.10, 10.3.2.1)."""
        return cls(type=_PCI[0], subtype=_PCI[1], data=struct.pack("<BB", function, device))

    @classmethod
    def firmware_volume(cls, name: UUID) -> Node:
        """Firmware volume by its name GUID (PI 1.8, volume 3, 8.2)."""
        return cls(type=_FV[0], subtype=_FV[1], data=name.bytes_le)

    @classmethod
    def firmware_file(cls, name: UUID) -> Node:
        """File of a firmware volume (PI 1.8, volume 3, 8.3)."""
        return cls(type=_FV_FILE[0], subtype=_FV_FILE[1], data=name.bytes_le)

    @classmethod
    def hard_drive(cls, *, number: int, first_block: int, blocks: int, unique: UUID) -> Node:
        """GPT partition (UEFI 2.10, 10.3.5.1); ``first_block`` and ``blocks`` in sectors of the disk."""
        data = struct.pack("<IQQ16sBB", number, first_block, blocks, unique.bytes_le, 2, 2)
        return cls(type=_HARD_DRIVE[0], subtype=_HARD_DRIVE[1], data=data)

    @classmethod
    def file_path(cls, path: str) -> Node:
        """File by its path with backslashes (UEFI 2.10, 10.3.5.4)."""
        return cls(type=_FILE_PATH[0], subtype=_FILE_PATH[1], data=_utf16(path))

    @classmethod
    def ethernet(cls, mac: bytes) -> Node:
        """Ethernet card by its address of 6 bytes (UEFI 2.10, 10.3.4.11)."""
        return cls(type=_MAC[0], subtype=_MAC[1], data=mac.ljust(32, b"\0") + bytes((_ETHERNET,)))

    @classmethod
    def any_ipv4(cls) -> Node:
        """IPv4 with nothing configured (UEFI 2.10, 10.3.4.12)."""
        return cls(type=_IPV4[0], subtype=_IPV4[1], data=bytes(23))

    @classmethod
    def any_ipv6(cls) -> Node:
        """IPv6 with nothing configured but edk2's prefix length of 64 (UEFI 2.10, 10.3.4.13)."""
        # Addresses (16, 16), ports (2, 2), protocol (2), address origin (1), prefix length (1), gateway (16).
        data = bytes(39) + bytes((_IPV6_PREFIX_LENGTH,)) + bytes(16)
        return cls(type=_IPV6[0], subtype=_IPV6[1], data=data)

    @classmethod
    def any_uri(cls) -> Node:
        """URI that the network will supply (UEFI 2.10, 10.3.4.23)."""
        return cls(type=_URI[0], subtype=_URI[1])

    @classmethod
    def end(cls) -> Node:
        """End of the whole device path."""
        return cls(type=_END[0], subtype=_END[1])

    def text(self) -> str:
        """Return the node's text form (UEFI 2.10, 10.6.1.6); other nodes as ``Path(type,subtype,hex)``."""
        reader = Reader(self.data, "device path node")
        match (self.type, self.subtype), len(self.data):
            case (key, 0) if key == _END_INSTANCE:
                return ","
            case (key, 2) if key == _PCI:
                function, device = reader.u8(), reader.u8()
                return f"Pci(0x{device:X},0x{function:X})"
            case (key, 8) if key == _ACPI:
                hid, uid = reader.u32(), reader.u32()
                if hid == _PCI_ROOT << 16 | _PNP:
                    return f"PciRoot(0x{uid:X})"
                name = f"PNP{hid >> 16:04X}" if hid & 0xFFFF == _PNP else f"0x{hid:08X}"
                return f"Acpi({name},0x{uid:X})"
            case (key, 4) if key == _SCSI:
                return f"Scsi(0x{reader.u16():X},0x{reader.u16():X})"
            case (key, 6) if key == _SATA:
                return f"Sata(0x{reader.u16():X},0x{reader.u16():X},0x{reader.u16():X})"
            case (key, 12) if key == _NVME:
                namespace, eui = reader.u32(), reader.take(8)
                return f"NVMe(0x{namespace:X},{'-'.join(f'{byte:02X}' for byte in reversed(eui))})"
            case (key, 38) if key == _HARD_DRIVE:
                return _hard_drive_text(reader)
            case (key, 16) if key in (_FV, _FV_FILE):
                return f"{'Fv' if key == _FV else 'FvFile'}({reader.guid()})"
            case (key, length) if key == _VENDOR_MEDIA and length >= 16:
                guid, rest = reader.guid(), reader.rest()
                return f"VenMedia({guid},{rest.hex()})" if rest else f"VenMedia({guid})"
            case (key, length) if key == _FILE_PATH and length >= 2 and length % 2 == 0:
                return self.data.decode("utf-16-le", "backslashreplace").split("\0", 1)[0]
        return f"Path({self.type},{self.subtype},{self.data.hex().upper()})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOption:
    """EFI_LOAD_OPTION: the contents of a Boot#### variable.

    Attributes:
        attributes: LOAD_OPTION_* bits.
        description: what the boot menu shows.
        path: where the program is: nodes in order, the end node last.
        other_paths: further device paths of the FilePathList; firmware boots the first.
        optional_data: what follows the device path; becomes the program's LoadOptions.
    """

    attributes: int
    description: str
    path: tuple[Node, ...]
    other_paths: tuple[tuple[Node, ...], ...] = ()
    optional_data: bytes = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """Return u32 attributes ‖ u16 length of paths ‖ description and NUL, UTF-16LE ‖ paths ‖ data."""
        path = b"".join(encode_device_path(path) for path in (self.path, *self.other_paths))
        if len(path) > 0xFFFF:
            raise LimitError(f"device path of {len(path)} bytes; a boot option holds at most 65535")
        head = struct.pack("<IH", self.attributes, len(path))
        return head + _utf16(self.description) + path + self.optional_data

    def text(self) -> str:
        """Return one readable line: description, device path, and how many bytes of optional data follow."""
        extra = f" + {len(self.optional_data)} bytes" if self.optional_data else ""
        return f"{self.description}: {device_path_text(self.path)}{extra}"


def parse_load_option(data: bytes) -> LoadOption:
    """Parse the contents of a Boot#### variable, up to ``MAX_OPTION_SIZE`` bytes.

    Raises:
        FormatError: cut, a description without its end, or a device path without an end node.
        LimitError: larger than ``MAX_OPTION_SIZE``, more than ``MAX_NODES`` nodes or ``MAX_PATHS`` paths.
    """
    if len(data) > MAX_OPTION_SIZE:
        raise LimitError(f"boot option has {len(data)} bytes; the limit is {MAX_OPTION_SIZE}")
    reader = Reader(data, "EFI_LOAD_OPTION")
    attributes, path_length = reader.u32("attributes"), reader.u16("device path length")
    units = bytearray()
    while (unit := reader.take(2, "description")) != b"\0\0":
        units += unit
    path_list = reader.part(path_length, "device path")
    path = _nodes(path_list)
    others = []
    while path_list.remaining:
        others.append(_nodes(path_list))
        if len(others) == MAX_PATHS:
            raise LimitError(f"boot option has more than {MAX_PATHS} device paths")
    return LoadOption(
        attributes=attributes,
        description=units.decode("utf-16-le", "surrogatepass"),
        path=path,
        other_paths=tuple(others),
        optional_data=reader.rest(),
    )


def parse_device_path(data: bytes) -> tuple[Node, ...]:
    """Parse a device path that fills ``data``, its end node included.

    Raises:
        FormatError: cut, without an end node, or followed by other bytes.
        LimitError: more than ``MAX_NODES`` nodes.
    """
    reader = Reader(data, "device path")
    nodes = _nodes(reader)
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes follow the end node")
    return nodes


def encode_device_path(path: tuple[Node, ...]) -> bytes:
    """Return the nodes one after another.

    Raises:
        FormatError: the last node, and no other, must be the end node.
    """
    ends = [index for index, node in enumerate(path) if (node.type, node.subtype) == _END]
    if ends != [len(path) - 1]:
        raise FormatError("a device path ends with one end node (Node.end()), and holds no other")
    return b"".join(node.encode() for node in path)


def device_path_text(path: tuple[Node, ...]) -> str:
    """Return the text form of a device path (UEFI 2.10, 10.6), nodes joined by ``/``, end node left out."""
    nodes = [node.text() for node in path if (node.type, node.subtype) != _END]
    return "/".join(nodes).replace("/,/", ",")


def _nodes(reader: Reader) -> tuple[Node, ...]:
    nodes: list[Node] = []
    while True:
        if len(nodes) == MAX_NODES:
            raise LimitError(f"device path has more than {MAX_NODES} nodes")
        start = reader.offset
        node_type, subtype, length = (
            reader.u8("node type"),
            reader.u8("node sub-type"),
            reader.u16("node length"),
        )
        if length < _NODE_HEADER_SIZE:
            raise reader.error(f"node length {length} is less than its header of 4 bytes", offset=start)
        nodes.append(
            Node(type=node_type, subtype=subtype, data=reader.take(length - _NODE_HEADER_SIZE, "node data"))
        )
        if (node_type, subtype) == _END:
            return tuple(nodes)


def _hard_drive_text(reader: Reader) -> str:
    number, first, blocks = reader.u32(), reader.u64(), reader.u64()
    signature, _, signature_type = reader.take(16), reader.u8(), reader.u8()
    match signature_type:
        case 1:
            identity = f"MBR,0x{int.from_bytes(signature[:4], 'little'):08X}"
        case 2:
            identity = f"GPT,{UUID(bytes_le=signature)}"
        case _:
            identity = f"{signature_type},{signature.hex()}"
    return f"HD({number},{identity},0x{first:X},0x{blocks:X})"


def _utf16(text: str) -> bytes:
    return (text + "\0").encode("utf-16-le", "surrogatepass")
