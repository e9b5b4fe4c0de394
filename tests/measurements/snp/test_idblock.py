"""ID blocks and guest policies, against the PyPI package sev-snp-measure."""

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sevsnpmeasure import id_block

from measurements.errors import FormatError, MeasurementError, SignatureError
from measurements.keys import KeyAlgorithm, generate
from measurements.snp import idblock, keys
from measurements.snp.idblock import IdAuthentication, IdBlock
from measurements.snp.policy import FLAGS, GuestPolicy

DIGEST = bytes(range(48))
BLOCK = IdBlock(launch_digest=DIGEST, policy=GuestPolicy())


@pytest.fixture(scope="module")
def pair():
    return tuple(generate(KeyAlgorithm.ECDSA_P384) for _ in range(2))


@pytest.fixture(scope="module")
def theirs(pair, tmp_path_factory):
    """What snp-create-id-block makes with the same keys: (block, authentication, key digests)."""
    folder = tmp_path_factory.mktemp("keys")
    names = []
    for number, key in enumerate(pair):
        path = folder / f"{number}.pem"
        path.write_bytes(key.pem())
        names.append(str(path))
    told = id_block.snp_calc_id_block(DIGEST, *names)
    parts, id_line, author_line = told.splitlines()
    block, auth = (part.partition("=")[2] for part in parts.split(","))
    digests = tuple(base64.b64decode(line.partition(": ")[2]) for line in (id_line, author_line))
    return base64.b64decode(block), base64.b64decode(auth), digests


def test_block_and_key_digests(pair, theirs):
    block, _, digests = theirs
    assert BLOCK.encode() == block
    assert IdBlock.parse(block) == BLOCK
    assert idblock.key_digests(*(key.public() for key in pair)) == digests


def test_their_signatures_hold_and_ours_differ_in_nothing_else(pair, theirs):
    _, authentication, digests = theirs
    parsed = IdAuthentication.parse(authentication)
    parsed.verify(BLOCK)
    assert (parsed.id_key_digest, parsed.author_key_digest) == digests
    ours = idblock.sign(BLOCK, *pair)
    ours.verify(BLOCK)

    def unsigned(data):
        blank = bytearray(data)
        for start in (0x40, 0x680):
            blank[start : start + 512] = bytes(512)
        return bytes(blank)

    assert unsigned(ours.encode()) == unsigned(authentication)
    assert IdAuthentication.parse(ours.encode()) == ours


def test_one_block_and_one_key_give_the_same_bytes(pair):
    assert idblock.sign(BLOCK, *pair) == idblock.sign(BLOCK, *pair)


def test_without_an_author_key(pair):
    signed = idblock.sign(BLOCK, pair[0])
    assert signed.author_key_digest == bytes(48)
    assert signed.encode()[4:8] == bytes(4) and not any(signed.encode()[0x680:])
    IdAuthentication.parse(signed.encode()).verify(BLOCK)


@pytest.mark.parametrize(
    "other",
    [
        IdBlock(launch_digest=DIGEST[::-1], policy=GuestPolicy()),
        IdBlock(launch_digest=DIGEST, policy=GuestPolicy(debug_allowed=True)),
        IdBlock(launch_digest=DIGEST, policy=GuestPolicy(), guest_svn=1),
        IdBlock(launch_digest=DIGEST, policy=GuestPolicy(), image_id=b"i" * 16),
    ],
)
def test_signature_of_another_block(pair, other):
    with pytest.raises(SignatureError, match="the signature of the ID block does not hold"):
        idblock.sign(BLOCK, *pair).verify(other)


def test_id_key_that_the_author_did_not_sign(pair):
    stranger = generate(KeyAlgorithm.ECDSA_P384)
    data = bytearray(idblock.sign(BLOCK, *pair).encode())
    data[0x880 : 0x880 + 1028] = keys.encode_public_key(stranger.public())
    with pytest.raises(SignatureError, match="the signature of the ID key does not hold"):
        IdAuthentication.parse(bytes(data)).verify(BLOCK)


@pytest.mark.parametrize("algorithm", [KeyAlgorithm.ED25519, KeyAlgorithm.ECDSA_P256])
def test_keys_that_the_firmware_does_not_take(algorithm):
    with pytest.raises(SignatureError, match="SEV-SNP takes ecdsa-p384 only"):
        idblock.sign(BLOCK, generate(algorithm))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"launch_digest": b"short"}, "launch digest has 5 bytes, expected 48"),
        ({"family_id": bytes(17)}, "family id has 17 bytes"),
        ({"image_id": b""}, "image id has 0 bytes"),
        ({"guest_svn": 1 << 32}, "guest SVN 4294967296"),
    ],
)
def test_fields_of_a_block(fields, message):
    with pytest.raises(FormatError, match=message):
        IdBlock(**{"launch_digest": DIGEST, "policy": GuestPolicy()} | fields)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 2, "algorithms 2 and 1"),
        (4, 7, "algorithms 1 and 7"),
        (8, 1, "reserved bytes from 0x8"),
        (0x650, 1, "reserved bytes from 0x644"),
        (0xC90, 1, "reserved bytes from 0xc84"),
    ],
)
def test_malformed_authentication(pair, offset, value, message):
    data = bytearray(idblock.sign(BLOCK, *pair).encode())
    data[offset] = value
    with pytest.raises(FormatError, match=message):
        IdAuthentication.parse(bytes(data))


@pytest.mark.parametrize(
    ("offset", "message"),
    [(0x240, "on curve"), (0x244 + 150, "reserved bytes are not zero"), (0x244 + 60, "more than 384 bits")],
)
def test_malformed_keys(pair, offset, message):
    data = bytearray(idblock.sign(BLOCK, *pair).encode())
    data[offset] ^= 0x7F
    with pytest.raises(FormatError, match=message):
        IdAuthentication.parse(bytes(data)).verify(BLOCK)


def test_a_point_that_is_not_on_the_curve(pair):
    data = bytearray(idblock.sign(BLOCK, *pair).encode())
    data[0x244] ^= 1
    with pytest.raises(FormatError, match="SEV-SNP public key: "):
        IdAuthentication.parse(bytes(data)).verify(BLOCK)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_hostile_authentication_raises_nothing_else(pair, data):
    mutated = bytearray(idblock.sign(BLOCK, *pair).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, 4095))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MeasurementError):
        IdAuthentication.parse(bytes(mutated[: data.draw(st.sampled_from([4096, 4095]))])).verify(BLOCK)


# The bits of AMD 56860, 4.3, table 9; 0x30000 is the policy of sev-snp-measure and of most real reports.
POLICIES = {
    0x20000: {"smt_allowed": False},
    0x30000: {},
    0x30137: {"abi_major": 1, "abi_minor": 0x37},
    0xB0000: {"debug_allowed": True},
    0x70000: {"migration_agent_allowed": True},
    0x130000: {"single_socket_required": True},
    0x230000: {"cxl_allowed": True},
    0x430000: {"aes_256_xts_required": True},
    0x830000: {"rapl_disabled_required": True},
    0x1030000: {"ciphertext_hiding_required": True},
    0x2030000: {"page_swap_disabled": True},
}


@pytest.mark.parametrize(("value", "fields"), POLICIES.items())
def test_policy_bits(value, fields):
    assert GuestPolicy(**fields).value == value
    assert GuestPolicy.parse(value) == GuestPolicy(**fields)
    assert GuestPolicy(**fields).to_json()["value"] == f"0x{value:x}"


@pytest.mark.parametrize(
    ("value", "message"), [(0x10000, "bit 17 is zero"), (1 << 26 | 0x20000, "a reserved bit")]
)
def test_policies_that_no_firmware_takes(value, message):
    with pytest.raises(FormatError, match=message):
        GuestPolicy.parse(value)


def test_abi_of_a_policy():
    with pytest.raises(FormatError, match=r"ABI 256\.0"):
        GuestPolicy(abi_major=256)


@settings(max_examples=150)
@given(st.integers(0, (1 << 26) - 1))
def test_policies_round_trip(value):
    assert GuestPolicy.parse(value | 1 << 17).value == value | 1 << 17


def test_weaker_policies():
    strict = GuestPolicy(smt_allowed=False, **dict.fromkeys(FLAGS[3:4], True), abi_major=1)
    weak = GuestPolicy(debug_allowed=True, abi_minor=200)
    assert set(weak.weaker_than(strict)) == {"smt_allowed", "debug_allowed", "single_socket_required", "abi"}
    assert strict.weaker_than(weak) == ()
    assert weak.weaker_than(weak) == ()
