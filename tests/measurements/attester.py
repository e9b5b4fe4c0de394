"""A machine made of values: its events, a software key in place of a TPM, and the evidence it gives.

The events are those of a real boot (tests/vectors/eventlog), so that the golden document and the attacks on
it have the shape of the real thing. The quote structures are written here from TPM 2.0 Part 2, apart from
the parser that they test.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from measurements import golden, keys
from measurements.attestation_key import load_attestation_key
from measurements.envelope import sign_document
from measurements.events import (
    Digest,
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Sequence,
    Stability,
    digests_of,
)
from measurements.formats import eventlog
from measurements.policy import ExpectedNonce, PinnedKey, Policy
from measurements.prediction import BootPath, FirmwareIdentity, LaunchShape, Prediction

VECTORS = Path(__file__).parent.parent / "vectors"
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
PHASES = ("enter-initrd", "leave-initrd", "sysinit", "ready")
NONCE = bytes(range(32))
EPOCH = 1_790_000_000
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)

STABILITY = {
    **dict.fromkeys((0, 2, 3, 6), Stability.FIRMWARE),
    1: Stability.VM_SHAPE,
    7: Stability.KEYS,
    11: Stability.PHASE,
    **dict.fromkeys((10, 15), Stability.NOT_PINNED),
}
CAUSES = {0: "firmware", 1: "VM shape", 4: "uki", 5: "disk GPT", 7: "Secure Boot state"}
SIGNING_KEY = keys.PrivateKey(
    __import__("cryptography.hazmat.primitives.asymmetric.ed25519", fromlist=["x"])
    .Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"a signing key for tests only").digest())
)  # fmt: skip
AK = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"an attestation key for tests").digest(), "big"),
                           ec.SECP256R1())  # fmt: skip
OTHER_AK = ec.derive_private_key(7, ec.SECP256R1())


@dataclass(frozen=True)
class Record:
    """One extend, as a log states it."""

    register: int
    type: int
    digests: dict[HashAlgorithm, Digest]
    data: bytes


def record(register: int, kind: int, measured: bytes, data: bytes | None = None) -> Record:
    """One extend with the hashes of ``measured``; the log's words are ``data``."""
    return Record(register, kind, dict(digests_of(measured, BANKS)), measured if data is None else data)


def real_records() -> list[Record]:
    log = eventlog.parse((VECTORS / "eventlog" / "qemu-ovmf-2025.02.bin").read_bytes())
    return [
        Record(item.register, item.type, {bank: item.digests[bank] for bank in BANKS}, item.data)
        for item in log.records
        if item.extends
    ]


def write_log(records: list[Record], banks: tuple[HashAlgorithm, ...] = BANKS) -> bytes:
    """A crypto-agile log (TCG PFP 1.06, 10.4.5.1 and 10.2.2)."""
    header = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 105, 2, len(banks))
    header += b"".join(struct.pack("<HH", bank.tcg_id, bank.size) for bank in banks) + b"\0"
    result = struct.pack("<II20sI", 0, EventType.NO_ACTION, bytes(20), len(header)) + header
    for item in records:
        result += struct.pack("<III", item.register, item.type, len(banks))
        for bank in banks:
            result += struct.pack("<H", bank.tcg_id) + item.digests[bank].value
        result += struct.pack("<I", len(item.data)) + item.data
    return result


def write_userspace(words: list[tuple[int, str]]) -> bytes:
    """systemd's log: JSON text sequences."""
    result = b""
    for register, word in words:
        digests = [{"hashAlg": bank.value, "digest": Digest.of(bank, word.encode()).hex()} for bank in BANKS]
        content = {"eventType": "phase", "string": word, "bootId": "0" * 32, "timestamp": 1}
        entry = {"pcr": register, "digests": digests, "content_type": "systemd", "content": content}
        result += b"\x1e" + json.dumps(entry).encode() + b"\n"
    return result


def write_attest(
    bank: HashAlgorithm,
    values: dict[int, Digest],
    *,
    nonce: bytes = NONCE,
    magic: int = 0xFF544347,
    kind: int = 0x8018,
    registers: set[int] | None = None,
    selected_bank: HashAlgorithm | None = None,
) -> bytes:
    """TPMS_ATTEST of type quote (TPM 2.0 Part 2, 10.12)."""
    chosen = set(values) if registers is None else registers
    bits = sum(1 << index for index in chosen).to_bytes(3, "little")
    digest = hashlib.sha256(b"".join(values[index].value for index in sorted(values))).digest()
    return (
        struct.pack(">IH", magic, kind)
        + struct.pack(">H34s", 34, b"\0\x0b" + bytes(32))
        + struct.pack(">H", len(nonce)) + nonce
        + struct.pack(">QIIB", 1000, 1, 0, 1) + struct.pack(">Q", 1)
        + struct.pack(">IHB", 1, (selected_bank or bank).tcg_id, 3) + bits
        + struct.pack(">H", len(digest)) + digest
    )  # fmt: skip


def sign_attest(attest: bytes, key: ec.EllipticCurvePrivateKey = AK) -> bytes:
    """TPMT_SIGNATURE, ECDSA with SHA-256 (Part 2, 11.3.4)."""
    r, s = utils.decode_dss_signature(key.sign(attest, ec.ECDSA(hashes.SHA256())))
    return struct.pack(">HHH32sH32s", 0x0018, 0x000B, 32, r.to_bytes(32, "big"), 32, s.to_bytes(32, "big"))


@dataclass
class Machine:
    """What a machine measured, and how it says so."""

    records: list[Record] = field(default_factory=real_records)
    words: list[tuple[int, str]] = field(default_factory=lambda: [(11, word) for word in PHASES])
    key: ec.EllipticCurvePrivateKey = AK
    banks: tuple[HashAlgorithm, ...] = BANKS

    def values(self, bank: HashAlgorithm) -> dict[int, Digest]:
        """PCR 0-15, by a fold that is not the package's."""
        result = {index: bytes(bank.size) for index in range(16)}
        for item in self.records:
            result[item.register] = hashlib.new(
                bank.value, result[item.register] + item.digests[bank].value
            ).digest()
        for register, word in self.words:
            digest = hashlib.new(bank.value, word.encode()).digest()
            result[register] = hashlib.new(bank.value, result[register] + digest).digest()
        return {index: Digest(bank, value) for index, value in result.items()}

    def evidence(self, nonce: bytes = NONCE, **attest: object) -> dict[str, object]:
        """The evidence file as JSON values."""
        quotes = []
        for bank in self.banks:
            message = write_attest(bank, self.values(bank), **{"nonce": nonce, **attest})
            quotes.append({
                "bank": bank.value,
                "attest": base64.b64encode(message).decode(),
                "signature": base64.b64encode(sign_attest(message, self.key)).decode(),
                "pcrs": {str(index): value.hex() for index, value in self.values(bank).items()},
            })  # fmt: skip
        return {
            "format": "goldsmith-evidence/1",
            "nonce": nonce.hex(),
            "attestation_key": {"public": public_pem(self.key), "certificates": []},
            "quotes": quotes,
            "event_log": base64.b64encode(write_log(self.records)).decode(),
            "userspace_log": base64.b64encode(write_userspace(self.words)).decode(),
        }

    def find(self, register: int, kind: int, number: int = 0) -> int:
        """Position of the ``number``-th record of this register and type."""
        found = [at for at, item in enumerate(self.records) if (item.register, item.type) == (register, kind)]
        return found[number]

    def change(self, at: int, measured: bytes, data: bytes | None = None) -> None:
        """Measure other bytes at ``at``; the log's words stay unless given."""
        old = self.records[at]
        self.records[at] = record(old.register, old.type, measured, old.data if data is None else data)


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def _cause(item: Record, names: dict[int, str]) -> str:
    if item.register == 11:
        return f"uki {item.data.decode('utf-16-le').rstrip(chr(0))}"
    if item.register == 9:
        return "uki .cmdline" if b"LoadOptions" in item.data else "uki .initrd"
    return names.get(item.register, "firmware")


def prediction(machine: Machine | None = None, *, vcpus: int = 2) -> Prediction:
    """The prediction that this machine fulfils, with PCR 11's earlier phases and a PCR 5 alternative."""
    machine = machine or Machine()
    registers = []
    for index in range(16):
        events = [
            Event(
                register=index,
                type=EventType(item.type),
                digests=item.digests,
                description=EventType(item.type).name,
                cause=_cause(item, CAUSES),
                data=item.data,
            )
            for item in machine.records
            if item.register == index
        ]
        words = [
            Event(
                register=index,
                type=None,
                digests=digests_of(word.encode(), BANKS),
                description=f"phase {word}",
                cause="boot phase",
            )
            for register, word in machine.words
            if register == index
        ]
        alternatives = [Sequence(label="usual", events=(*events, *words))]
        phases = [
            Sequence(label=PHASES[number], events=(*events, *words[: number + 1]))
            for number in range(len(words) - 1)
        ]
        if index == 5:
            again = replace(events[-1], description="second ExitBootServices", cause="firmware")
            alternatives.append(Sequence(label="ExitBootServices twice", events=(*events, again)))
        pinned = STABILITY.get(index, Stability.IMAGE)
        registers.append(
            RegisterPrediction(
                index=index,
                stability=pinned,
                alternatives=() if pinned is Stability.NOT_PINNED else tuple(alternatives),
                reason="differs per instance" if pinned is Stability.NOT_PINNED else None,
                phases=tuple(phases),
            )
        )
    firmware = FirmwareIdentity(name="ovmf-2025.02", sha256="ab" * 32, sha384="cd" * 48)
    shape = LaunchShape(platform="qemu-vtpm", firmware=firmware, boot=BootPath.DISK, machine="pc-q35-10.0",
                        memory_mib=2048, vcpus=vcpus)  # fmt: skip
    return Prediction(shape=shape, registers=tuple(registers))


def other_shape() -> Prediction:
    """The same image with four processors: another PCR 1."""
    machine = Machine()
    machine.change(machine.find(1, EventType.PLATFORM_CONFIG_FLAGS, 1), b"ACPI tables of four processors")
    return prediction(machine, vcpus=4)


def document(*predictions: Prediction, svn: int = 3) -> golden.GoldenDocument:
    return golden.document_from(
        image=golden.ImageIdentity(name="base", version="0.1.0", svn=svn),
        source_date_epoch=EPOCH,
        validity=golden.Validity.since(EPOCH, days=365),
        inputs=golden.Inputs(recipe="11" * 32, lock="22" * 32),
        outputs=[
            golden.Output(name="uki.efi", size=20_000_000, sha256="33" * 32),
            golden.Output(name="disk.raw", size=200_000_000, sha256="44" * 32),
        ],
        calculator=golden.Calculator(name="goldsmith", version="0.1.0"),
        predictions=predictions or (prediction(), other_shape()),
    )


def signed(value: golden.GoldenDocument | None = None) -> bytes:
    return sign_document(value or document(), [SIGNING_KEY])


def policy(**changes: object) -> Policy:
    values: dict[str, object] = {
        "signers": (SIGNING_KEY.public(),),
        "threshold": 1,
        "nonce": ExpectedNonce(value=NONCE),
        "attestation_key": PinnedKey(key=load_attestation_key(public_pem(AK))),
        "now": NOW,
        "minimum_svn": 1,
        **changes,
    }
    return Policy(**values)  # type: ignore[arg-type]
