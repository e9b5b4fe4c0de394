"""Intel's signed statements about platforms and quoting enclaves: TCB information and QE identity.

Intel "SGX and TDX Provisioning Certification Service API" version 4: Get TDX TCB Info (version 3), Get TDX QE
Identity (version 2). What is signed is the text of the inner object, byte for byte: verified first, then parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from measurements import strictjson
from measurements.errors import FormatError, LimitError, SignatureError

MAX_DOCUMENT_SIZE: Final = 1 << 20
MAX_LEVELS: Final = 256
MAX_MODULES: Final = 32

_COMPONENTS = 16
_ENVELOPE = re.compile(rb'\{"(\w{1,32})":(\{.*\}),"signature":"([0-9a-fA-F]{128})"\}\s*', re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Collateral:
    """What a verifier fetched for one quote, as Intel's service gave it.

    Attributes:
        tcb_info: body of the TCB information.
        qe_identity: body of the QE identity.
        signing_chain: PEM of the certificate that signed both, and its issuers.
        pck_crl: DER of the revocation list of the PCK certificate's issuer.
        root_crl: DER of the root's revocation list.
    """

    tcb_info: bytes = field(repr=False)
    qe_identity: bytes = field(repr=False)
    signing_chain: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    root_crl: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLevel:
    """One TCB level of a platform: the least versions, and what Intel says of platforms that have them."""

    sgx: tuple[int, ...]
    tdx: tuple[int, ...]
    pcesvn: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SvnLevel:
    """One TCB level of an enclave or a TDX module."""

    isvsvn: int
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIdentity:
    """What a TDX module of one major version must look like.

    Attributes:
        mrsigner: its signer, 48 bytes.
        attributes: its attributes under the mask, 8 bytes.
        mask: 8 bytes.
        levels: by security version, highest first; empty for the entry that holds for modules without version.
    """

    mrsigner: bytes
    attributes: bytes
    mask: bytes
    levels: tuple[SvnLevel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """TCB information of one kind of platform."""

    issued: datetime
    next_update: datetime
    fmspc: bytes
    pceid: bytes
    module: ModuleIdentity
    modules: Mapping[str, ModuleIdentity]
    levels: tuple[PlatformLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QeIdentity:
    """What the quoting enclave must look like; masks and values of equal length."""

    issued: datetime
    next_update: datetime
    miscselect: int
    miscselect_mask: int
    attributes: bytes
    attributes_mask: bytes
    mrsigner: bytes
    isvprodid: int
    levels: tuple[SvnLevel, ...]


def verified(body: bytes, name: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the signed text of a document, whose signature holds under ``key``.

    Args:
        body: as the service gave it.
        name: of the inner object: ``tcbInfo`` or ``enclaveIdentity``.
        key: of the signing certificate.

    Raises:
        FormatError: not laid out as such a document.
        SignatureError: the signature does not hold.
    """
    if len(body) > MAX_DOCUMENT_SIZE:
        raise LimitError(f"{name}: {len(body)} bytes; the limit is {MAX_DOCUMENT_SIZE}")
    match = _ENVELOPE.fullmatch(body)
    if match is None or match[1] != name.encode():
        raise FormatError(
            f'{name}: expected {{"{name}":{{…}},"signature":"<128 hex digits>"}} without blanks'
        )
    verify_raw_signature(key, bytes.fromhex(match[3].decode()), match[2], name)
    return match[2]


def verify_raw_signature(key: ec.EllipticCurvePublicKey, signature: bytes, message: bytes, what: str) -> None:
    """Verify ECDSA with SHA-256 on P-256, signature r ‖ s of 64 bytes.

    Raises:
        SignatureError: it does not hold.
    """
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureError(f"{what}: the signature does not hold") from None


def parse_tcb_info(text: bytes) -> TcbInfo:
    """Parse the signed text of TDX TCB information.

    Raises:
        FormatError: malformed, or of another kind or version.
        LimitError: too many levels.
    """
    top = _Object(_loads(text, "tcbInfo"), "tcbInfo")
    if top.text("id") != "TDX" or top.integer("version") != 3 or top.integer("tcbType") != 0:
        raise FormatError("tcbInfo: expected id TDX, version 3, tcbType 0")
    modules = {}
    for item in top.objects("tdxModuleIdentities", MAX_MODULES, required=False):
        modules[item.text("id")] = _module(item, levels=True)
    return TcbInfo(
        issued=top.time("issueDate"),
        next_update=top.time("nextUpdate"),
        fmspc=top.octets("fmspc", 6),
        pceid=top.octets("pceId", 2),
        module=_module(top.object("tdxModule"), levels=False),
        modules=modules,
        levels=tuple(_platform_level(item) for item in top.objects("tcbLevels", MAX_LEVELS)),
    )


def parse_qe_identity(text: bytes) -> QeIdentity:
    """Parse the signed text of the TDX quoting enclave's identity; raises as ``parse_tcb_info``."""
    top = _Object(_loads(text, "enclaveIdentity"), "enclaveIdentity")
    if top.text("id") != "TD_QE" or top.integer("version") != 2:
        raise FormatError("enclaveIdentity: expected id TD_QE, version 2")
    return QeIdentity(
        issued=top.time("issueDate"),
        next_update=top.time("nextUpdate"),
        # Hexadecimal digits in memory order, as in the report.
        miscselect=int.from_bytes(top.octets("miscselect", 4), "little"),
        miscselect_mask=int.from_bytes(top.octets("miscselectMask", 4), "little"),
        attributes=top.octets("attributes", 16),
        attributes_mask=top.octets("attributesMask", 16),
        mrsigner=top.octets("mrsigner", 32),
        isvprodid=top.integer("isvprodid"),
        levels=_svn_levels(top),
    )


def _module(item: _Object, *, levels: bool) -> ModuleIdentity:
    return ModuleIdentity(
        mrsigner=item.octets("mrsigner", 48),
        attributes=item.octets("attributes", 8),
        mask=item.octets("attributesMask", 8),
        levels=_svn_levels(item) if levels else (),
    )


def _svn_levels(item: _Object) -> tuple[SvnLevel, ...]:
    return tuple(
        SvnLevel(isvsvn=level.object("tcb").integer("isvsvn"), status=level.text("tcbStatus"))
        for level in item.objects("tcbLevels", MAX_LEVELS)
    )


def _platform_level(item: _Object) -> PlatformLevel:
    tcb = item.object("tcb")

    def versions(name: str) -> tuple[int, ...]:
        found = tuple(component.integer("svn") for component in tcb.objects(name, _COMPONENTS))
        if len(found) != _COMPONENTS:
            raise FormatError(f"tcbInfo: {name} has {len(found)} components; expected {_COMPONENTS}")
        return found

    return PlatformLevel(
        sgx=versions("sgxtcbcomponents"),
        tdx=versions("tdxtcbcomponents"),
        pcesvn=tcb.integer("pcesvn"),
        status=item.text("tcbStatus"),
    )


def _loads(text: bytes, what: str) -> Any:
    return strictjson.loads(text, what=what, max_bytes=MAX_DOCUMENT_SIZE)


class _Object:
    """Reads members of a JSON object; members that it is not asked for are passed over, as the API allows."""

    def __init__(self, value: object, what: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{what}: expected an object")
        self._value: dict[str, Any] = value
        self._what = what

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or len(value) > 1024:
            raise FormatError(f"{self._what}: {name} is no short text")
        return value

    def integer(self, name: str) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise FormatError(f"{self._what}: {name} is no number from 0 on")
        return value

    def octets(self, name: str, size: int) -> bytes:
        text = self.text(name)
        if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * size}}}", text):
            raise FormatError(f"{self._what}: {name} is not {2 * size} hexadecimal digits")
        return bytes.fromhex(text)

    def time(self, name: str) -> datetime:
        text = self.text(name)
        if not _TIME.fullmatch(text):
            raise FormatError(f"{self._what}: {name} is no time such as 2023-06-18T08:42:58Z")
        try:
            return datetime.fromisoformat(f"{text[:-1]}+00:00")
        except ValueError:
            raise FormatError(f"{self._what}: {name} is no time that ever was") from None

    def object(self, name: str) -> _Object:
        return _Object(self._get(name), f"{self._what}.{name}")

    def objects(self, name: str, limit: int, *, required: bool = True) -> tuple[_Object, ...]:
        if not required and name not in self._value:
            return ()
        value = self._get(name)
        if not isinstance(value, list):
            raise FormatError(f"{self._what}: {name} is no list")
        if len(value) > limit:
            raise LimitError(f"{self._what}: {name} has {len(value)} items; the limit is {limit}")
        return tuple(_Object(item, f"{self._what}.{name}") for item in value)

    def _get(self, name: str) -> Any:
        try:
            return self._value[name]
        except KeyError:
            raise FormatError(f"{self._what}: no {name}") from None
