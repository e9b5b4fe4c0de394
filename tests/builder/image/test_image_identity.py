import hashlib
from uuid import UUID

import pytest

from builder.errors import ImageError
from builder.image.identity import disk_identity, root_identity

ROOT_HASH = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef"
UKI = hashlib.sha256(b"uki").digest()


def test_root_identity_is_sha256_of_length_prefixed_parts():
    # Origin: for p in 'goldsmith image identity 1' PURPOSE base 1.0; do
    #   printf %016x ${#p} | xxd -r -p; printf %s "$p"; done | sha256sum
    # with the version and variant bits of RFC 9562 (8, 10) put in by hand.
    identity = root_identity("base", "1.0")
    assert identity.verity_salt.hex() == "9e6e5703b272dfa3f2aece165e9bad78449480fbd1da21c13d97a25255c2d16d"
    assert identity.erofs_uuid == UUID("fa0ed1d5-a81f-805d-8bff-373229f28824")
    assert identity.verity_uuid == UUID("b0a4ab14-4ada-8679-bfa0-12fc7feb252d")
    assert identity.erofs_uuid.version == 8


def test_where_one_part_ends_matters():
    assert root_identity("base1", "0") != root_identity("base", "10")


def test_partitions_are_found_by_the_root_hash():
    identity = disk_identity(ROOT_HASH, UKI)
    # Discoverable Partitions Specification: first and last 128 bits, as text.
    assert str(identity.root) == "00112233-4455-6677-8899-aabbccddeeff"
    assert str(identity.verity) == "01234567-89ab-cdef-0123-456789abcdef"


def test_disk_identity_moves_with_root_and_uki():
    base = disk_identity(ROOT_HASH, UKI)
    other_uki = disk_identity(ROOT_HASH, hashlib.sha256(b"other").digest())
    other_root = disk_identity("f" + ROOT_HASH[1:], UKI)
    for other in (other_uki, other_root):
        assert len({base.disk, base.esp, other.disk, other.esp}) == 4
        assert base.fat_volume != other.fat_volume
    assert (base.root, base.verity) == (other_uki.root, other_uki.verity)
    assert 0 <= base.fat_volume <= 0xFFFFFFFF


@pytest.mark.parametrize("root_hash", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_bad_root_hash(root_hash):
    with pytest.raises(ImageError, match="64 lower-case hex"):
        disk_identity(root_hash, UKI)


def test_bad_digest():
    with pytest.raises(ImageError, match="expected 32"):
        disk_identity(ROOT_HASH, UKI[:-1])
