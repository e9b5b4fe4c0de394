"""The verifier: a real H100's evidence holds, and nothing that differs from it in one place."""

from __future__ import annotations

import dataclasses
import datetime
import struct

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_evidence import (
    CHAIN,
    DEVICES,
    DRIVER_RIM,
    DRIVER_VALUES,
    MANIFESTS,
    NONCE,
    REPORT,
    RIMS,
    SIGNER,
    THEN,
    VBIOS_RIM,
    VBIOS_VALUES,
    ZEROS,
    Gpu,
    crl,
    extension,
    manifest,
    ocsp,
    pem,
    signed,
    tcb_info,
)

from measurements.gpu.certificates import load_chain
from measurements.gpu.rim import RimKind
from measurements.gpu.verify import CHECKS, MAX_RIMS, Policy, to_json, verify

NAMES = [name for name, _ in CHECKS]
REAL = Policy(at=THEN, nonce=NONCE, rim_root=MANIFESTS.root)
OURS = Policy(at=THEN, nonce=NONCE, device_root=DEVICES.root, rim_root=MANIFESTS.root)
BOTH = (DRIVER_RIM, VBIOS_RIM)


def failed(verdict):
    return [check.name for check in verdict.checks if not check.ok]


def detail(verdict, name):
    return next(check.detail for check in verdict.checks if check.name == name)


def of(gpu, rims=BOTH, policy=OURS):
    return verify(gpu.report(), gpu.chain(), rims, policy)


def test_a_real_h100():
    """NVIDIA's recorded report and certificates, with NVIDIA's reference values for that driver and VBIOS.

    Manifests with these values are signed by a test's authority; NVIDIA's own manifests are read in test_gpu_rim.py.
    """
    verdict = verify(REPORT, CHAIN, BOTH, REAL)
    assert verdict.passed and not failed(verdict)
    assert [check.name for check in verdict.checks] == NAMES
    assert verdict.driver_version == "550.90.07" and verdict.vbios_version == "96.00.9F.00.01"
    # 21 and 12 indexes are active; 35 is left out, because the report says that NVDEC0 is off.
    assert verdict.compared == 32 and not verdict.mismatches
    assert "35 is not compared" in detail(verdict, "measurements")
    assert verify(REPORT, CHAIN, BOTH[::-1], REAL).passed
    assert verify(REPORT.hex().encode(), CHAIN, BOTH, REAL).passed


def test_what_scripts_read():
    assert to_json(verify(REPORT, CHAIN, BOTH, REAL)) == {
        "verdict": "pass",
        "driver_version": "550.90.07",
        "vbios_version": "96.00.9F.00.01",
        "measurements": {"matched": 32, "compared": 32, "mismatched": []},
        "checks": [
            {"name": check.name, "ok": True, "detail": check.detail}
            for check in verify(REPORT, CHAIN, BOTH, REAL).checks
        ],
    }
    wrong = to_json(of(Gpu(measurements={2: b"\1" * 48})))
    assert wrong["verdict"] == "fail"
    assert wrong["measurements"] == {
        "matched": 32,
        "compared": 33,
        "mismatched": [
            {"index": 2, "rim": "vbios", "name": "M_2", "observed": "01" * 48, "expected": VBIOS_VALUES[2]}
        ],
    }


def fields():
    """Every field of the H100's report: name, offset and size."""
    request = {"version": 1, "code": 1, "Param1": 1, "Param2": 1, "nonce": 32, "slot": 1}
    response = {"version": 1, "code": 1, "Param1": 1, "Param2": 1, "count": 1, "length": 3}
    offset = 0
    for message, layout in (("request", request), ("response", response)):
        for name, size in layout.items():
            yield f"{message} {name}", offset, size
            offset += size
    for number in range(64):
        for name, size in {
            "index": 1,
            "specification": 1,
            "size": 2,
            "type": 1,
            "value size": 2,
            "value": 48,
        }.items():
            yield f"measurement {number} {name}", offset, size
            offset += size
    yield "response nonce", offset, 32
    yield "opaque length", offset + 32, 2
    end, offset = len(REPORT) - 96, offset + 34
    while offset < end:
        kind, size = struct.unpack_from("<HH", REPORT, offset)
        yield from ((f"opaque {kind} type", offset, 2), (f"opaque {kind} size", offset + 2, 2))
        yield f"opaque {kind}", offset + 4, size
        offset += 4 + size
    assert offset == end
    yield from (("signature r", end, 48), ("signature s", end + 48, 48))


FIELDS = tuple(fields())


def test_the_fields_are_the_whole_report():
    assert sum(size for _, _, size in FIELDS) == len(REPORT)
    assert all(FIELDS[n][1] + FIELDS[n][2] == FIELDS[n + 1][1] for n in range(len(FIELDS) - 1))


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("end", ["first", "last"])
def test_each_field_of_the_report_mutated(bit, end):
    for name, offset, size in FIELDS:
        mutated = bytearray(REPORT)
        mutated[offset if end == "first" else offset + size - 1] ^= 1 << bit
        verdict = verify(bytes(mutated), CHAIN, (), REAL)  # manifests make it slow, and have no part in this
        assert {"report", "report signature"} & set(failed(verdict)), name


def test_each_certificate_mutated():
    chain = load_chain(CHAIN)
    for number, certificate in enumerate(chain):
        der = certificate.public_bytes(Encoding.DER)
        for position in range(4, len(der), 5):
            mutated = bytearray(der)
            mutated[position] ^= 1
            try:
                other = x509.load_der_x509_certificate(bytes(mutated))
            except (ValueError, x509.InvalidVersion):
                continue
            verdict = verify(REPORT, pem(*chain[:number], other, *chain[number + 1 :]), (), REAL)
            assert "certificate chain" in failed(verdict), (number, position)


@pytest.mark.parametrize("rim", ["driver", "vbios"])
def test_each_value_of_the_manifests_changed(rim):
    """Signed all the same: another value at an active index never passes."""
    values = DRIVER_VALUES if rim == "driver" else VBIOS_VALUES
    for index in sorted(values):
        changed = {**values, index: ["ab" * 48]}
        if rim == "driver":
            rims = signed(manifest("550.90.07", changed)), VBIOS_RIM
        else:
            rims = DRIVER_RIM, signed(manifest("96.00.9F.00.01", changed))
        verdict = verify(REPORT, CHAIN, rims, REAL)
        if index == 35:
            assert verdict.passed
            continue
        assert failed(verdict) == ["measurements"]
        (mismatch,) = verdict.mismatches
        assert (mismatch.index, mismatch.rim) == (index, RimKind(rim))


def test_evidence_of_another_gpu():
    gpu, other = Gpu(), Gpu()
    assert of(gpu).passed
    verdict = verify(gpu.report(), other.chain(), BOTH, OURS)
    assert failed(verdict) == ["report signature"]
    assert failed(verify(REPORT, gpu.chain(), BOTH, OURS)) == ["firmware identity", "report signature"]


def test_a_chain_under_another_root():
    verdict = verify(Gpu().report(), Gpu().chain(), BOTH, REAL)
    assert failed(verdict)[0] == "certificate chain"
    # What hangs on the certificate fails with it, and says so.
    assert "report signature" in failed(verdict) and "driver RIM" in failed(verdict)
    assert detail(verdict, "report signature") == "there is no trusted certificate to look at"


def test_a_replayed_report():
    verdict = verify(REPORT, CHAIN, BOTH, Policy(at=THEN, nonce=bytes(32), rim_root=MANIFESTS.root))
    assert failed(verdict) == ["nonce"]
    assert NONCE.hex() in detail(verdict, "nonce")


def test_without_a_nonce_freshness_is_unproven():
    verdict = verify(REPORT, CHAIN, BOTH, Policy(at=THEN, nonce=None, rim_root=MANIFESTS.root))
    assert verdict.passed and detail(verdict, "nonce").startswith("UNPROVEN")


def test_another_time():
    late = Policy(at=THEN + datetime.timedelta(days=36500), nonce=NONCE, rim_root=MANIFESTS.root)
    assert failed(verify(REPORT, CHAIN, BOTH, late))[0] == "RIM signatures"
    early = Policy(at=THEN.replace(year=2021), nonce=NONCE, rim_root=MANIFESTS.root)
    assert failed(verify(REPORT, CHAIN, BOTH, early))[0] == "certificate chain"


def test_revocation_lists():
    """Signers of manifests are in them; what is covered in whole is no longer unproven."""
    gpu = Gpu()
    chain = gpu.chain()
    covering = tuple(
        crl(issuer, key)
        for each in (DEVICES, MANIFESTS)
        for issuer, key in ((each.root, each.root_key), (each.issuer, each.key))
    )

    def judged(*lists):
        policy = dataclasses.replace(OURS, crls=lists)
        return verify(gpu.report(), chain, BOTH, policy)

    # The GPU's authority, the one signer of both manifests and its authority; no GPU publishes what it revokes.
    assert detail(judged(), "revocation") == "UNPROVEN for Devices authority, Signer, Manifests authority"
    assert detail(judged(covering[0]), "revocation") == "UNPROVEN for Signer, Manifests authority"
    assert judged(*covering).passed and detail(judged(*covering), "revocation") == "none is"
    answer = ocsp(MANIFESTS.issuer, MANIFESTS.key, SIGNER)
    policy = dataclasses.replace(OURS, crls=(covering[0], covering[2]), ocsp=(answer,))
    assert detail(verify(gpu.report(), chain, BOTH, policy), "revocation") == "none is"
    policy = dataclasses.replace(OURS, ocsp=(answer,) * 40)
    assert failed(verify(gpu.report(), chain, BOTH, policy)) == ["revocation"]
    for revoked in (
        crl(DEVICES.issuer, DEVICES.key, load_chain(chain)[0]),
        crl(MANIFESTS.issuer, MANIFESTS.key, SIGNER),
    ):
        assert failed(judged(revoked)) == ["revocation"]
    assert failed(judged(crl(DEVICES.root, DEVICES.root_key, days=-1))) == ["revocation"]
    assert failed(judged(*covering * 20)) == ["revocation"]


def test_manifests_of_another_signer():
    """The real root does not accept the tests' manifests, nor the other way round."""
    assert failed(verify(REPORT, CHAIN, BOTH, Policy(at=THEN, nonce=NONCE))) == [
        "RIM signatures",
        "driver RIM",
        "VBIOS RIM",
        "measurement indexes",
        "measurements",
    ]
    one_bad = verify(REPORT, CHAIN, (*BOTH, RIMS["driver-545.00.swidtag"]), REAL)
    assert failed(one_bad) == ["RIM signatures"] and "manifest 3" in detail(one_bad, "RIM signatures")


def test_nvidias_manifests_of_other_versions():
    """Genuine manifests for another driver and another VBIOS: signed by NVIDIA, and not this GPU's."""
    verdict = verify(REPORT, CHAIN, tuple(RIMS.values()), Policy(at=THEN, nonce=NONCE))
    assert failed(verdict) == ["driver RIM", "VBIOS RIM", "measurement indexes", "measurements"]
    assert "driver 545.00 of GH100" in detail(verdict, "driver RIM")
    assert verdict.compared == 0


@pytest.mark.parametrize(
    "rims", [(), (DRIVER_RIM,), (VBIOS_RIM,), (DRIVER_RIM, DRIVER_RIM), (*BOTH, VBIOS_RIM)]
)
def test_not_one_manifest_of_each(rims):
    verdict = verify(REPORT, CHAIN, rims, REAL)
    assert not verdict.passed and "measurements" in failed(verdict) and verdict.compared == 0


def test_many_manifests():
    verdict = verify(REPORT, CHAIN, (DRIVER_RIM,) * (MAX_RIMS + 1), REAL)
    assert "RIM signatures" in failed(verdict)


def test_manifests_of_another_chip():
    """NVIDIA's service answers for a Hopper driver where a Blackwell's was meant: validly signed, and wrong."""
    other = signed(manifest("550.90.07", DRIVER_VALUES, product="GB100"))
    verdict = of(Gpu(), (other, VBIOS_RIM))
    assert "driver RIM" in failed(verdict) and "550.90.07 of GB100" in detail(verdict, "driver RIM")
    assert of(Gpu(), (other, DRIVER_RIM, VBIOS_RIM)).passed


def test_a_blackwell():
    digest = bytes(range(48))
    rims = (
        signed(manifest("595.91.07", DRIVER_VALUES, product="GB100")),
        signed(manifest("97.00.E4.00.1E", VBIOS_VALUES, product="GB100")),
    )
    opaque = {
        3: b"595.91.07\0",
        6: bytes.fromhex("00e400971e000000"),
        20: digest,
        35: b"GB100\0\0\0",
        34: b"\1\0",
    }
    name, extensions = "GB100 A01 GSP FMC LF", (extension(tcb_info(digest, bytes(48))),)
    gpu = Gpu(name=name, opaque=opaque, extensions=extensions)
    assert of(gpu, rims).passed and of(gpu, rims).vbios_version == "97.00.E4.00.1E"
    other = Gpu(name=name, opaque=opaque, extensions=(extension(tcb_info(bytes(48), digest)),))
    assert failed(of(other, rims)) == ["firmware identity"]
    assert failed(of(Gpu(name=name, opaque=opaque), rims)) == ["firmware identity"]
    lying = Gpu(name=name, opaque={**opaque, 35: b"GB202\0"}, extensions=extensions)
    assert "driver RIM" in failed(of(lying, rims))


@pytest.mark.parametrize("index", [7, 12, 23, 40])
def test_measurements(index):
    gpu = Gpu(measurements={index: b"\1" * 48})
    verdict = of(gpu)
    assert failed(verdict) == ["measurements"] and [each.index for each in verdict.mismatches] == [index]
    missing = of(Gpu(measurements={index: None}))
    assert failed(missing) == ["measurements"] and missing.mismatches[0].observed is None


def test_alternatives():
    for value in DRIVER_VALUES[35]:
        assert of(Gpu(measurements={35: bytes.fromhex(value)})).passed
    # All zeros, nothing measured, is acceptable at 23 and nowhere else.
    assert ZEROS in DRIVER_VALUES[23] and of(Gpu(measurements={23: bytes(48)})).passed
    assert not of(Gpu(measurements={22: bytes(48)})).passed


def test_inactive_indexes_are_not_compared():
    assert of(Gpu(measurements={60: b"\1" * 48, 13: b"\2" * 48})).passed
    inactive = signed(manifest("550.90.07", DRIVER_VALUES, inactive={60: ["ab" * 48], 3: ["cd" * 48]}))
    verdict = of(Gpu(), (inactive, VBIOS_RIM))
    assert verdict.passed and verdict.compared == 33


def test_the_video_decoder():
    wrong = {35: b"\1" * 48}
    assert failed(of(Gpu(measurements=wrong))) == ["measurements"]
    assert of(Gpu(measurements=wrong, opaque={11: b"\x55"})).passed
    assert failed(of(Gpu(opaque={11: b"\x00"}))) == ["measurements"]
    assert of(Gpu(opaque={11: None})).compared == 33


def test_manifests_that_contradict_each_other():
    both = signed(manifest("96.00.9F.00.01", {**VBIOS_VALUES, 7: DRIVER_VALUES[7]}))
    verdict = of(Gpu(), (DRIVER_RIM, both))
    assert failed(verdict) == ["measurement indexes"] and "at 7" in detail(verdict, "measurement indexes")


def test_firmware_that_holds_another_key():
    gpu = Gpu(opaque={20: bytes(48)}, extensions=(extension(tcb_info(b"\1" * 48)),))
    assert failed(of(gpu)) == ["firmware identity"]
    malformed = Gpu(opaque={20: bytes(48)}, extensions=(extension(b"\x30\x05"),))
    assert failed(of(malformed)) == ["firmware identity"]


def test_signed_by_another_key():
    gpu, thief = Gpu(), ec.generate_private_key(ec.SECP384R1())
    chain, gpu.key = gpu.chain(), thief
    assert failed(verify(gpu.report(), chain, BOTH, OURS)) == ["report signature"]


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x11", b"\xff" * 1000])
def test_junk_is_a_verdict(junk):
    for lists in ({"crls": (junk,)}, {"ocsp": (junk,)}):
        assert failed(verify(REPORT, CHAIN, BOTH, dataclasses.replace(REAL, **lists))) == ["revocation"]
    for report, chain, rims in ((junk, CHAIN, BOTH), (REPORT, junk, BOTH), (REPORT, CHAIN, (junk, junk))):
        verdict = verify(report, chain, rims, REAL)
        assert not verdict.passed and len(verdict.checks) == len(CHECKS)
    nothing = to_json(verify(junk, junk, (junk,), REAL))
    assert nothing["driver_version"] is None and nothing["measurements"]["compared"] == 0
