"""ID block and ID authentication: how a guest's owner signs what may be launched.

Implements SNP_LAUNCH_FINISH of AMD 56860 (8.18): ID_BLOCK, table 74, and ID_AUTH_INFO, table 75. With an ID block the
firmware refuses a launch of another digest or policy, and reports name the keys.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Final

from measurements.errors import FormatError
from measurements.keys import PublicKey, SigningKey
from measurements.snp import keys
from measurements.snp.pages import DIGEST_SIZE
from measurements.snp.policy import GuestPolicy

ID_SIZE: Final = 16
BLOCK_SIZE: Final = 96
AUTHENTICATION_SIZE: Final = 4096

_VERSION = 1
_BLOCK = struct.Struct("<48s16s16sIIQ")
_BLOCK_SIGNATURE = 0x040
_ID_KEY = 0x240
_ID_KEY_SIGNATURE = 0x680
_AUTHOR_KEY = 0x880
_RESERVED = (
    (0x008, _BLOCK_SIGNATURE),
    (_ID_KEY + keys.PUBLIC_KEY_SIZE, _ID_KEY_SIGNATURE),
    (_AUTHOR_KEY + keys.PUBLIC_KEY_SIZE, AUTHENTICATION_SIZE),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """What may be launched.

    Attributes:
        launch_digest: 48 bytes.
        family_id, image_id: 16 bytes each, of the owner's choice.
        guest_svn: security version of the guest, 32 bits.
        policy: the guest policy; the launch must have the same.
    """

    launch_digest: bytes
    policy: GuestPolicy
    family_id: bytes = bytes(ID_SIZE)
    image_id: bytes = bytes(ID_SIZE)
    guest_svn: int = 0

    def __post_init__(self) -> None:
        for name, value, size in (
            ("launch digest", self.launch_digest, DIGEST_SIZE),
            ("family id", self.family_id, ID_SIZE),
            ("image id", self.image_id, ID_SIZE),
        ):
            if len(value) != size:
                raise FormatError(f"ID block: {name} has {len(value)} bytes, expected {size}")
        if not 0 <= self.guest_svn < 1 << 32:
            raise FormatError(f"ID block: guest SVN {self.guest_svn}, expected 32 bits")

    def encode(self) -> bytes:
        """Return the 96 bytes that are signed."""
        return _BLOCK.pack(
            self.launch_digest,
            self.family_id,
            self.image_id,
            _VERSION,
            self.guest_svn,
            self.policy.value,
        )

    @classmethod
    def parse(cls, data: bytes) -> IdBlock:
        """Read 96 bytes.

        Raises:
            FormatError: the size, version or policy is wrong.
        """
        if len(data) != BLOCK_SIZE:
            raise FormatError(f"ID block has {len(data)} bytes, expected {BLOCK_SIZE}")
        digest, family, image, version, svn, policy = _BLOCK.unpack(data)
        if version != _VERSION:
            raise FormatError(f"ID block of version {version}, expected {_VERSION}")
        return cls(
            launch_digest=digest,
            family_id=family,
            image_id=image,
            guest_svn=svn,
            policy=GuestPolicy.parse(policy),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class IdAuthentication:
    """Who says so.

    Attributes:
        block_signature: of the ID block, by the ID key; 512 bytes.
        id_key: public key, 1028 bytes.
        id_key_signature: of the ID key, by the author key; zeros without one.
        author_key: public key, 1028 bytes; ``None`` without one.
    """

    block_signature: bytes = field(repr=False)
    id_key: bytes = field(repr=False)
    id_key_signature: bytes = field(default=bytes(keys.SIGNATURE_SIZE), repr=False)
    author_key: bytes | None = field(default=None, repr=False)

    @property
    def id_key_digest(self) -> bytes:
        """What reports of the guest show as ID_KEY_DIGEST."""
        return keys.key_digest(self.id_key)

    @property
    def author_key_digest(self) -> bytes:
        """What reports show as AUTHOR_KEY_DIGEST: zeros without an author key."""
        return bytes(DIGEST_SIZE) if self.author_key is None else keys.key_digest(self.author_key)

    def encode(self) -> bytes:
        """Return the 4096 bytes of ID_AUTH_INFO."""
        data = bytearray(AUTHENTICATION_SIZE)
        algorithm = 0 if self.author_key is None else keys.ALGORITHM
        struct.pack_into("<II", data, 0, keys.ALGORITHM, algorithm)
        for offset, part in (
            (_BLOCK_SIGNATURE, self.block_signature),
            (_ID_KEY, self.id_key),
            (_ID_KEY_SIGNATURE, self.id_key_signature),
            (_AUTHOR_KEY, self.author_key or b""),
        ):
            data[offset : offset + len(part)] = part
        return bytes(data)

    @classmethod
    def parse(cls, data: bytes) -> IdAuthentication:
        """Read 4096 bytes; the signatures are not verified.

        Raises:
            FormatError: the size or an algorithm is wrong, or reserved bytes are not zero.
        """
        if len(data) != AUTHENTICATION_SIZE:
            raise FormatError(f"ID authentication has {len(data)} bytes, expected {AUTHENTICATION_SIZE}")
        for start, end in _RESERVED:
            if any(data[start:end]):
                raise FormatError(f"ID authentication: reserved bytes from 0x{start:x} are not zero")
        id_algorithm, author_algorithm = struct.unpack_from("<II", data)
        author = data[_AUTHOR_KEY : _AUTHOR_KEY + keys.PUBLIC_KEY_SIZE]
        expected = keys.ALGORITHM if any(author) else 0
        if id_algorithm != keys.ALGORITHM or author_algorithm not in (expected, keys.ALGORITHM):
            raise FormatError(
                f"ID authentication: algorithms {id_algorithm} and {author_algorithm}; "
                f"expected {keys.ALGORITHM} (ECDSA P-384) and {expected}"
            )
        return cls(
            block_signature=data[_BLOCK_SIGNATURE : _BLOCK_SIGNATURE + keys.SIGNATURE_SIZE],
            id_key=data[_ID_KEY : _ID_KEY + keys.PUBLIC_KEY_SIZE],
            id_key_signature=data[_ID_KEY_SIGNATURE : _ID_KEY_SIGNATURE + keys.SIGNATURE_SIZE],
            author_key=author if any(author) else None,
        )

    def verify(self, block: IdBlock) -> None:
        """Verify both signatures, as the firmware does.

        Raises:
            FormatError: a key or signature is malformed.
            SignatureError: a signature does not hold.
        """
        keys.verify(keys.decode_public_key(self.id_key), self.block_signature, block.encode(), "the ID block")
        if self.author_key is not None:
            author = keys.decode_public_key(self.author_key)
            keys.verify(author, self.id_key_signature, self.id_key, "the ID key")


def sign(block: IdBlock, id_key: SigningKey, author_key: SigningKey | None = None) -> IdAuthentication:
    """Sign an ID block, and with an author key the ID key; one block and one key give the same bytes every time.

    Raises:
        SignatureError: a key is not on P-384.
    """
    encoded = keys.encode_public_key(id_key.public())
    signature, author = bytes(keys.SIGNATURE_SIZE), None
    if author_key is not None:
        author = keys.encode_public_key(author_key.public())
        signature = keys.encode_signature(author_key.sign(encoded))
    return IdAuthentication(
        block_signature=keys.encode_signature(id_key.sign(block.encode())),
        id_key=encoded,
        id_key_signature=signature,
        author_key=author,
    )


def key_digests(id_key: PublicKey, author_key: PublicKey | None = None) -> tuple[bytes, bytes]:
    """Return ID_KEY_DIGEST and AUTHOR_KEY_DIGEST, 48 bytes each; zeros for an author key that is not there."""
    author = bytes(DIGEST_SIZE) if author_key is None else keys.key_digest(keys.encode_public_key(author_key))
    return keys.key_digest(keys.encode_public_key(id_key)), author


def release_ids(name: str, version: str) -> tuple[bytes, bytes]:
    """Return the family id and image id of a release of an image, 16 bytes each.

    SHA-256, cut to 16 bytes, of ``goldsmith family`` NUL name, and of ``goldsmith image`` NUL name NUL version. With
    them a report tells which release its owner launched, and a verifier derives them from the golden document.
    """
    family = b"goldsmith family\0" + name.encode()
    image = b"goldsmith image\0" + name.encode() + b"\0" + version.encode()
    return hashlib.sha256(family).digest()[:ID_SIZE], hashlib.sha256(image).digest()[:ID_SIZE]
