"""Reports that hardware signed, and a signer of our own for those that no hardware would sign."""

import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from measurements.snp import keys

VECTORS = Path(__file__).parent.parent / "vectors/snp"
NAMES = ("milan-v2", "genoa-v3", "genoa-v5", "turin-v5")
#: Every certificate of the vectors is valid then.
NOW = datetime(2026, 11, 22, tzinfo=UTC)
OID = "1.3.6.1.4.1.3704.1."


def report(name):
    return (VECTORS / f"{name}.report.bin").read_bytes()


def certificate(name):
    return (VECTORS / f"{name}.vcek.der").read_bytes()


def name(common):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


class Authority:
    """An ARK, an ASK and an ASVK of our own, and the keys that they endorse."""

    def __init__(self, product="Genoa"):
        self.product = product
        self._root_key, self._middle_key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        self.root = self._issue(
            f"ARK-{product}", self._root_key.public_key(), f"ARK-{product}", self._root_key, ca=True
        )
        self.middle = self._issue(
            f"SEV-{product}", self._middle_key.public_key(), f"ARK-{product}", self._root_key, ca=True
        )
        self.vlek_middle = self._issue(
            f"SEV-VLEK-{product}", self._middle_key.public_key(), f"ARK-{product}", self._root_key, ca=True
        )

    def endorse(
        self, key, *, chip_id=b"c" * 64, tcb=(10, 0, 27, 88), vlek=None, product=None, days=365, **extensions
    ):
        """Return a VCEK's certificate, or a VLEK's for a provider."""
        kind, middle = (
            ("VCEK", f"SEV-{self.product}") if vlek is None else ("VLEK", f"SEV-VLEK-{self.product}")
        )
        values = {"2": b"\x16" + _length(product or self.product)}
        values |= {
            f"3.{last}": b"\x02\x01" + bytes((part,)) for last, part in zip((1, 2, 3, 8), tcb, strict=True)
        }
        values["3.9"] = b"\x02\x01\x00"
        values |= {"4": chip_id} if vlek is None else {"5": b"\x16" + _length(vlek)}
        values |= {number.replace("_", "."): value for number, value in extensions.items()}
        return self._issue(f"SEV-{kind}", key, middle, self._middle_key, values=values, days=days)

    def _issue(self, subject, public_key, issuer, key, *, ca=False, values=None, days=3650):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(public_key)
            .serial_number(1)
            .not_valid_before(NOW - timedelta(days=30))
            .not_valid_after(NOW + timedelta(days=days))
        )
        if ca:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        for number, value in (values or {}).items():
            if value is not None:
                oid = x509.ObjectIdentifier(OID + number)
                builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        pss = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        return builder.sign(key, hashes.SHA384(), rsa_padding=pss)


def der(item):
    return item.public_bytes(Encoding.DER)


def sign(data, key):
    """Sign the first 672 bytes of a report anew."""
    signature = key.sign(bytes(data[:0x2A0]), ec.ECDSA(hashes.SHA384()))
    return bytes(data[:0x2A0]) + keys.encode_signature(signature)


def forged(key, *, chip_id=b"c" * 64, tcb=(10, 0, 27, 88), key_info=0, base="genoa-v5", **fields):
    """Return a report of our own: that of ``base`` with other fields ({offset: bytes}), signed with ``key``."""
    data = bytearray(report(base))
    data[0x1A0:0x1E0] = chip_id
    packed = bytes((tcb[0], tcb[1], 0, 0, 0, 0, tcb[2], tcb[3]))
    for offset in (0x38, 0x180, 0x1E0, 0x1F0):
        data[offset : offset + 8] = packed
    struct.pack_into("<I", data, 0x48, key_info)
    for offset, value in fields.get("at", {}).items():
        data[offset : offset + len(value)] = value
    return sign(data, key)


def _length(text):
    return bytes((len(text),)) + text.encode()
