"""A trust domain that hardware quoted (tests/vectors/README.md, "tdx"), and a golden document that fits it.

Nobody published the files it was launched from. Its log tells every event, and the TDX module signed the registers that
they fold to: so the document here is made of the log's digests, and MRTD is the quoted one in either page order.
"""

import json
import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from attester import document, prediction

from measurements import golden
from measurements.events import (
    Digest,
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Sequence,
    Stability,
)
from measurements.explain import describe
from measurements.golden import TdxReference
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.tdx.collateral import Collateral
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.predict import RTMR3
from measurements.tdx.td_hob import Vmm

FOLDER = Path(__file__).parent.parent / "vectors/tdx/mpc"
SHA384 = HashAlgorithm.SHA384
#: Quote and collateral are valid then.
NOW = datetime(2025, 8, 25, tzinfo=UTC)
QUOTE = (FOLDER / "quote.bin").read_bytes()
#: Offsets in the quote: header of 48 bytes, then TDREPORT's body (Intel 348551, TDINFO_STRUCT).
_BODY = 48
MRTD = Digest(SHA384, QUOTE[_BODY + 136 : _BODY + 184])
MRCONFIGID = QUOTE[_BODY + 184 : _BODY + 232]
RTMR3_VALUE = QUOTE[_BODY + 472 : _BODY + 520]
REPORT_DATA = QUOTE[_BODY + 520 : _BODY + 584]
RECORDS = json.loads((FOLDER / "event-log.json").read_text())
CAUSES = {
    EventType.EFI_HANDOFF_TABLES2: "memory size",
    EventType.EFI_PLATFORM_FIRMWARE_BLOB2: "firmware CFV",
    EventType.EFI_VARIABLE_DRIVER_CONFIG: "Secure Boot state",
    EventType.PLATFORM_CONFIG_FLAGS: "VM shape",
    EventType.EFI_VARIABLE_BOOT: "boot options",
    EventType.EFI_BOOT_SERVICES_APPLICATION: "uki",
}


def collateral():
    def read(name):
        return (FOLDER / name).read_bytes()

    return Collateral(
        tcb_info=read("tcb-info.json"),
        qe_identity=read("qe-identity.json"),
        signing_chain=read("signing-chain.pem"),
        pck_crl=read("pck.crl"),
        root_crl=read("root.crl"),
    )


def ccel(records=None):
    """Write records in the layout of a CCEL: TCG PFP 1.06, 10.2.2, padded with ff (Intel GHCI, "TD Event Log")."""
    header = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, 1)
    header += struct.pack("<HH", SHA384.tcg_id, SHA384.size) + b"\0"
    log = struct.pack("<II20sI", 1, EventType.NO_ACTION, bytes(20), len(header)) + header
    for item in RECORDS if records is None else records:
        data = bytes.fromhex(item["event_payload"])
        log += struct.pack("<IIIH", item["imr"] + 1, item["event_type"], 1, SHA384.tcg_id)
        log += bytes.fromhex(item["digest"]) + struct.pack("<I", len(data)) + data
    return log + b"\xff" * 256


def register(index, *, records=None, stability=None):
    """Return the prediction of an RTMR whose only course is the log's."""
    events = tuple(
        Event(
            register=index,
            type=EventType(item["event_type"]),
            digests={SHA384: Digest(SHA384, bytes.fromhex(item["digest"]))},
            description=describe(item["event_type"], bytes.fromhex(item["event_payload"])),
            cause=_cause(item),
            data=bytes.fromhex(item["event_payload"]),
        )
        for item in (RECORDS if records is None else records)
        if item["imr"] == index
    )
    return RegisterPrediction(
        index=index,
        stability=stability or (Stability.VM_SHAPE if index == 0 else Stability.IMAGE),
        alternatives=(Sequence(label="boot", events=events),),
    )


def _cause(item):
    text = bytes.fromhex(item["event_payload"])
    if b"LoadOptions" in text:
        return "command line"
    return "initrd" if b"initrd" in text else CAUSES.get(item["event_type"], "firmware")


def reference(**changes):
    """Return the reference values of that trust domain."""
    firmware = FirmwareIdentity.of("unpublished", b"a stand-in: the file is not public")
    runtime = RegisterPrediction(index=3, stability=Stability.NOT_PINNED, alternatives=(), reason=RTMR3)
    whole = TdxReference(
        platform="qemu-tdx",
        firmware=firmware,
        boot=BootPath.DIRECT,
        vmm=Vmm.QEMU,
        machine="pc-q35-8.2",
        memory_mib=65536,
        vcpus=8,
        mrtd=dict.fromkeys(PageOrder, MRTD),
        td_hob=Digest(SHA384, bytes.fromhex(RECORDS[0]["digest"])),
        registers=(*(register(index) for index in range(3)), runtime),
    )
    return replace(whole, **changes)


def release(*references):
    """Return a golden document with these trust domains, valid when the quote was made."""
    return replace(
        document(prediction()),
        validity=golden.Validity.since(1_750_000_000, days=3650),
        tdx=references or (reference(),),
    )
