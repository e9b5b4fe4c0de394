"""UKIs, disks and firmware for tests of predictions: small, and made of nothing but Python.

``KERNEL`` and the sections of ``SECTIONS`` are also what tests/vectors/systemd-measure was computed from.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from measurements.formats import gpt
from measurements.formats.ovmf import DXEFV, PEIFV
from measurements.platforms.firmware import (
    SHELL,
    UI_APP,
    BuiltinOption,
    FirmwareProfile,
    PeifvMode,
    SmbiosMeasurement,
)
from measurements.platforms.qemu import AcpiBlobs
from measurements.prediction import BootPath
from measurements.tpm.inputs import TpmInputs

VECTORS = Path(__file__).parent.parent / "vectors"
_HEADERS = 0x400
_PE_OFFSET = 0x80


def vector(name):
    """Return the contents of an xz-compressed vector."""
    return lzma.decompress((VECTORS / name).read_bytes())


def acpi(machine):
    """Return the ACPI blobs of a recorded machine ("alone", "disk")."""
    names = {"table_loader": "table-loader", "rsdp": "acpi-rsdp", "tables": "acpi-tables"}
    blobs = {field: vector(f"launches/{machine}.etc-{name}.xz") for field, name in names.items()}
    return AcpiBlobs(**blobs, tpm_log=bytes(65536))  # QEMU's area for the log is blank at start


def pe_image(sections, *, major_image_version=1, certificate=b""):
    """Return a PE32+ image for x64 with these (name, data) or (name, data, virtual size) sections."""
    table, body = b"", b""
    offset, address = _HEADERS + 0x200 * (len(sections) // 8), 0x1000
    headers = offset
    for name, data, *size in sections:
        padded = data + bytes(-len(data) % 0x200)
        virtual = size[0] if size else len(data)
        table += struct.pack(
            "<8sIIIIIIHHI", name.encode(), virtual, address, len(padded), offset, 0, 0, 0, 0, 0x60000020
        )
        body += padded
        offset += len(padded)
        address += max(len(padded), virtual, 1) + 0xFFF & ~0xFFF
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 240, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0, 0, 0, 0x1000, 0x1000) + struct.pack("<Q", 0)
    optional += struct.pack(
        "<IIHHHHHHIIIIHH", 0x1000, 0x200, 0, 0, major_image_version, 0, 0, 0, 0, address, headers, 0, 10, 0
    )
    optional += struct.pack("<QQQQII", 0, 0, 0, 0, 0, 16)
    optional += bytes(32) + struct.pack("<II", offset if certificate else 0, len(certificate)) + bytes(88)
    stub = b"MZ" + bytes(58) + struct.pack("<I", _PE_OFFSET) + bytes(_PE_OFFSET - 64)
    head = stub + b"PE\0\0" + coff + optional + table
    return head + bytes(headers - len(head)) + body + certificate


def kernel(*, version=b"6.12.0-test", major_image_version=1):
    """Return a PE image with the setup header of a bzImage: it says which Linux it is."""
    image = bytearray(pe_image([(".text", b"\xeb\xfe")], major_image_version=major_image_version))
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    image[0x300 : 0x301 + len(version)] = version + b"\0"
    return bytes(image)


KERNEL = kernel()
OSREL = b"ID=test\nVERSION_ID=1\n"
CMDLINE = "root=/dev/vda2 quiet"
INITRD = b"not a real initrd, and its length is no multiple of four\n"
#: A UKI's sections in an order of their own: the stub measures them in its order, not in the file's.
SECTIONS = (
    (".initrd", INITRD),
    (".cmdline", CMDLINE.encode()),
    (".osrel", OSREL),
    (".uname", b"6.12.0-test"),
    (".sbat", b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n"),
    (".pcrpkey", b"-----BEGIN PUBLIC KEY-----\nnot a key\n-----END PUBLIC KEY-----\n"),
    (".splash", b"BM no picture"),
    (".dtb", b"no tree"),
    (".linux", KERNEL),
)
#: With the sections that few UKIs have; the profile comes last, so all before it are base.
MORE_SECTIONS = (
    (".ucode", b"ucode, 13 b.\n"),
    *SECTIONS,
    (".profile", b"ID=test\nPRETTY_NAME=profile\n"),
)


def magic(stub=257):
    """Return the .sdmagic section of a systemd-stub release."""
    return (".sdmagic", f"#### LoaderInfo: systemd-stub {stub}.13-1~deb13u1 ####\0".encode())


def uki(sections=SECTIONS, *, stub=257):
    """Return a UKI; ``stub=None``: one that does not say which stub it has."""
    return pe_image([(".text", b"\xeb\xfe"), *(() if stub is None else (magic(stub),)), *sections])


UKI = uki()
PARTITION = UUID("11111111-1111-1111-1111-111111111111")


def disk():
    """Return the parsed table of a disk with one partition."""
    entry = struct.pack(
        "<16s16sQQQ72s",
        UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b").bytes_le,
        PARTITION.bytes_le,
        2048,
        4095,
        0,
        "esp".encode("utf-16-le"),
    )
    entries = entry + bytes(127 * 128)
    header = bytearray(
        struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART", 0x10000, 92, 0, 0, 1, 8191, 34, 8158, UUID(int=7).bytes_le, 2, 128, 128, zlib.crc32(entries),
        )
    )  # fmt: skip
    header[16:20] = zlib.crc32(header).to_bytes(4, "little")
    return gpt.parse(bytes(512) + bytes(header) + bytes(420) + entries)


def volume(name, *files, size=0x10000):
    """Return a firmware volume; ``files`` are (GUID, type, sections)."""
    extended = 72
    body = b""
    for guid, file_type, data in files:
        body += (
            guid.bytes_le
            + b"\0\0"
            + bytes([file_type, 0])
            + (24 + len(data)).to_bytes(3, "little")
            + b"\xf8"
            + data
        )
        body += b"\xff" * (-len(body) % 8)
    head = bytes(16) + UUID("8c8ce578-8a3d-4f1c-9935-896185c32dd3").bytes_le
    header = (
        head
        + struct.pack("<Q4sIHHHBB", size, b"_FVH", 0, 72, 0, 0 if name is None else extended, 0, 2)
        + bytes(16)
    )
    if name is not None:
        header += name.bytes_le + struct.pack("<I", 20) + bytes(4)
    return (header + body).ljust(size, b"\xff")


def section(section_type, data):
    """Return an FFS section, padded to 4 bytes."""
    size = 4 + len(data)
    if size < 0xFFFFFF:
        whole = size.to_bytes(3, "little") + bytes([section_type]) + data
    else:
        whole = b"\xff\xff\xff" + bytes([section_type]) + (size + 4).to_bytes(4, "little") + data
    return whole + bytes(-len(whole) % 4)


def firmware(*, peifv=None, dxefv=None):
    """Return a firmware file laid out as OVMF's, with volumes of 64 KiB."""
    peifv = volume(PEIFV, (UUID(int=1), 4, section(0x19, b"pei"))) if peifv is None else peifv
    dxefv = volume(DXEFV, (SHELL, 9, section(0x19, b"etc/boot/\0"))) if dxefv is None else dxefv
    stream = lzma.compress(section(0x17, peifv) + section(0x17, dxefv), format=lzma.FORMAT_ALONE)
    guided = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le + struct.pack("<HH", 24, 1) + stream
    main = volume(None, (UUID("9e21fd93-9c72-4c15-8c4b-e77f1db2d792"), 0x0B, section(2, guided)), size=0x8000)
    nvram = (
        bytes(16)
        + UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
        + struct.pack("<Q4s", 0x1000, b"_FVH")
    )
    return nvram.ljust(0x1000, b"\xff") + main


FIRMWARE = firmware()
PROFILE = FirmwareProfile(
    sha384="0" * 96,
    name="sample",
    crtm_version="1.0",
    peifv=PeifvMode.FILE,
    acpi_measured=False,
    pciexbar=None,
    smbios=SmbiosMeasurement.NONE,
    boot_options=(BuiltinOption(description="UiApp", attributes=0x109, file=UI_APP),),
    shell=BuiltinOption(description="EFI Internal Shell", attributes=1, file=SHELL),
    secure_boot=False,
    secure_boot_unset=b"",
)


def profile_for(firmware_file, **changes):
    """Return the sample profile for a firmware file."""
    return replace(PROFILE, sha384=hashlib.sha384(firmware_file).hexdigest(), **changes)


def inputs(**changes):
    """Return a disk boot of the sample UKI on the sample firmware."""
    values = {
        "firmware_name": "sample",
        "firmware": FIRMWARE,
        "boot": BootPath.DISK,
        "machine": "pc-q35-10.0",
        "memory_mib": 512,
        "vcpus": 2,
        "image": UKI,
        "disk": disk(),
        "profiles": (profile_for(changes.get("firmware", FIRMWARE)),),
    } | changes
    return TpmInputs(**values)
