"""The page rule and GCE's vCPU state against google/gce-tcb-verifier.

Values from its sev/sev_test.go (commit 6d623b8): TestUpdateData, TestZeroContentUpdateData, and the bytes of vmsaBytes
that are not zero.
"""

import hashlib

import pytest

from measurements.snp import vmsa
from measurements.snp.pages import INITIAL_DIGEST, PageType, Region, extend, repeat, walk
from measurements.snp.vmsa import Vmm

MARK = b"LGTM" * 4
DATA = MARK + bytes(3 * 4096 - 2 * len(MARK)) + MARK
NORMAL = Region(type=PageType.NORMAL, address=0, size=len(DATA), data=DATA, cause="test")
ZERO = Region(type=PageType.ZERO, address=0x9000, size=3 * 4096, cause="test")

#: Offset -> bytes.
GCE_BOOT_STATE = {
    0x000: "000093 00ffff0000", 0x010: "00f09b00ffff0000 0000ffff00000000", 0x020: "00009300ffff0000",
    0x030: "00009300ffff0000", 0x040: "00009300ffff0000", 0x050: "00009300ffff0000", 0x060: "00000000ffff0000",
    0x070: "00008200ffff0000", 0x080: "00000000ffff0000", 0x090: "00008b00ffff0000", 0x0D0: "0010", 0x148: "40",
    0x158: "10", 0x160: "0004", 0x168: "f00fffff", 0x170: "02", 0x178: "f0ff", 0x268: "06010700", 0x310: "0006",
    0x3B0: "01", 0x3E8: "01",
}  # fmt: skip


@pytest.mark.parametrize(
    ("region", "digest"),
    [
        (
            NORMAL,
            "cba1cd767c33b30f96271837dbbae4081a945464a5af397b9b0336b5d8759ee88cc6b62c05d915c4424a9ac5747437d4",
        ),
        (
            ZERO,
            "4bfe18477ba370a50329da74b9621e721c4f29663176e08fbcf088a17c1bc45f133898b86d5082acbe202a6e9419808a",
        ),
    ],
)
def test_page_rule(region, digest):
    assert extend(INITIAL_DIGEST, [region]).hex() == digest
    *_, last = walk([region])
    assert last.digest.hex() == digest


def test_state_of_gces_boot_vcpu():
    expected = bytearray(4096)
    for offset, text in GCE_BOOT_STATE.items():
        data = bytes.fromhex(text)
        expected[offset : offset + len(data)] = data
    assert vmsa.reset_page(Vmm.GCE, start=vmsa.RESET_VECTOR, signature=0, features=1) == expected


def test_repeating_a_page_is_adding_it_again():
    page = Region(type=PageType.VMSA, address=0x1000, size=4096, data=bytes(4096), cause="test")
    assert list(repeat(INITIAL_DIGEST, page, 3)) == [
        extend(INITIAL_DIGEST, [page] * count) for count in (1, 2, 3)
    ]


def test_equal_pages_in_a_row_are_told_from_others():
    pages = [b"a" * 4096, b"a" * 4096, b"b" * 4096, b"a" * 4096, bytes(4096), bytes(4096)]
    region = Region(type=PageType.NORMAL, address=0, size=6 * 4096, data=b"".join(pages), cause="test")
    found = [page.contents for page in walk([region])]
    assert found == [hashlib.sha384(page).digest() for page in pages]
    *_, last = walk([region])
    assert extend(INITIAL_DIGEST, [region]) == last.digest
