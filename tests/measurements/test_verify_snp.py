"""SEV-SNP reports against a golden document: an honest guest passes, and each check refuses its attack."""

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import layer_samples
import pytest
import snp_reports
from attester import NOW, SIGNING_KEY, Machine, document, prediction, signed
from confidential_samples import snp
from cryptography.hazmat.primitives.asymmetric import ec
from gpu_evidence import EXPECTED
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements import envelope, keys
from measurements.errors import FormatError
from measurements.policy import Unproven
from measurements.prediction import BootPath, FirmwareIdentity
from measurements.profile import profile_of
from measurements.snp.features import SevFeatures
from measurements.snp.hashes import KernelHashes
from measurements.snp.idblock import release_ids
from measurements.snp.policy import GuestPolicy
from measurements.snp.report import parse
from measurements.snp.tcb import Product, TcbVersion
from measurements.snp.verify import report_data_of
from measurements.snp.vmsa import Vmm, reset_page
from measurements.verify.release import ReleasePolicy, launch_to_json
from measurements.verify.snp import CHECKS, SnpPolicy, verify_report
from measurements.verify.verdict import Status

KEY = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = snp_reports.Authority()
NONCE = b"n" * 32
ID_KEY, AUTHOR_KEY = b"k" * 48, b"a" * 48
LAUNCHES = tuple(snp(vcpus=vcpus, cpu=cpu) for cpu in ("EPYC-Milan", "EPYC-Genoa") for vcpus in (1, 2, 4))
GOLDEN = replace(document(prediction()), sev_snp=LAUNCHES)
SIGNERS = (SIGNING_KEY.public(),)
ENVELOPE = signed(GOLDEN)
CERTIFICATES = (
    snp_reports.der(AUTHORITY.endorse(KEY.public_key())),
    snp_reports.der(AUTHORITY.middle),
)
#: Offsets in a report (AMD 56860, table 23).
SVN, POLICY, FAMILY, IMAGE, VMPL, DATA, DIGEST, HOST, ID, AUTHOR = (
    0x04, 0x08, 0x10, 0x20, 0x30, 0x50, 0x90, 0xC0, 0xE0, 0x110,
)  # fmt: skip


def report(digest=LAUNCHES[1].launch_digest.value, key=KEY, **at):
    """Return a report of a guest with this launch digest; ``at`` sets further fields by name."""
    fields = {DATA: report_data_of(NONCE), DIGEST: digest, POLICY: (0x30000).to_bytes(8, "little")}
    fields |= {VMPL: bytes(4), HOST: bytes(32), ID: bytes(48), AUTHOR: bytes(48)}
    fields |= {globals()[name.upper()]: value for name, value in at.items()}
    return snp_reports.forged(key, at=fields)


def with_block(image="base", version="0.1.0", svn=3, id_key=ID_KEY, **at):
    """Return a report of a guest that was launched with an ID block."""
    family_id, image_id = release_ids(image, version)
    at = {"id": id_key, "author": AUTHOR_KEY, "svn": svn.to_bytes(4, "little")} | at
    return report(family=family_id, image=image_id, **at)


def policy(
    *, threshold=1, signers=SIGNERS, now=NOW, svn=3, image=None, shape=None, profiles=(), gpu=None, **demands
):
    release = ReleasePolicy(
        signers=signers,
        threshold=threshold,
        now=now,
        minimum_svn=svn,
        image=image,
        shape=shape,
        profiles=profiles,
        gpu=gpu,
    )
    return SnpPolicy(
        **{
            "release": release,
            "report_data": report_data_of(NONCE),
            "guest_policy": GuestPolicy(),
            "minimum_tcb": TcbVersion(bootloader=10, tee=0, snp=27, microcode=88),
            "host_data": bytes(32),
            "trusted": (AUTHORITY.root,),
        }
        | demands
    )


def run(data=None, *, golden=ENVELOPE, given=CERTIFICATES, **demands):
    return verify_report(golden, report() if data is None else data, given, policy(**demands))


def failed(verdict):
    """Return what failed, by name."""
    assert not verdict.passed
    return {check.name: check.detail for check in verdict.checks if check.status is Status.FAILED}


def test_honest_guest_passes_and_its_launch_is_named():
    verdict = run()
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert [check.number for check in verdict.checks] == [*range(1, 17)]
    assert tuple(check.name for check in verdict.checks) == CHECKS
    assert verdict.shape == "qemu-snp/ovmf-amdsev/direct/EPYC-Milan/2-vcpus"
    (value,) = verdict.values
    assert (value.name, value.equal, value.predicted) == ("launch_digest", True, (value.observed,))


@pytest.mark.parametrize("launch", LAUNCHES, ids=lambda item: item.name)
def test_every_launch_of_the_document_passes(launch):
    verdict = run(report(launch.launch_digest.value))
    assert verdict.passed and verdict.shape == launch.name


def rolled():
    """A release that knows other firmware alone, and a profile of this one whose author started another kernel."""
    layer = layer_samples.layer_of(Machine())  # with the kernel hashes of b"uki"
    old = replace(GOLDEN, sev_snp=(snp(seed=b"old", vcpus=2),), image_layer=layer)
    other = replace(layer, kernel_hashes=KernelHashes.of(b"another kernel"))
    launches = [replace(snp(uki=b"another kernel", vcpus=vcpus), platform="rolled") for vcpus in (1, 2)]
    return signed(old), (profile_of(other, name="amdsev", sev_snp=launches),)


def test_firmware_of_a_profile_passes_and_without_it_does_not():
    golden, profiles = rolled()
    assert "is the digest of none of 1 launches" in failed(run(golden=golden))["launch shape"]
    verdict = run(golden=golden, profiles=profiles)
    assert verdict.passed, verdict.failures
    assert verdict.shape == "rolled/ovmf-amdsev/direct/EPYC-Milan/2-vcpus"
    assert f"{verdict.shape}, by the verifier's profile amdsev" in [check.detail for check in verdict.checks]


def test_the_kernel_of_the_profiles_author_does_not_pass():
    golden, profiles = rolled()
    theirs = snp(uki=b"another kernel", vcpus=2).launch_digest.value
    assert "launch shape" in failed(run(report(theirs), golden=golden, profiles=profiles))


@pytest.mark.parametrize("name", snp_reports.NAMES)
def test_reports_of_real_machines(monkeypatch, name):
    """AMD's chain and signature, the nonce, the policy: all real. Nobody told what these guests were launched with,
    so no pages fold to their digests: the document's value is put in behind the check of its signature."""
    data = snp_reports.report(name)
    real = parse(data)
    known = replace(LAUNCHES[0], loaded=real.measurement, steps=())
    monkeypatch.setattr(envelope, "parse_statement", lambda _: replace(GOLDEN, sev_snp=(LAUNCHES[1], known)))
    demands = {
        "guest_policy": real.policy,
        "minimum_tcb": TcbVersion(bootloader=0, tee=0, snp=0, microcode=0),
        "product": None if real.product else Product.MILAN,
        "trusted": None,
        "vmpl": real.vmpl,
        "report_data": real.report_data,
        "host_data": real.host_data,
        "now": snp_reports.NOW,
    }
    verdict = run(data, given=[snp_reports.certificate(name)], **demands)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert verdict.shape == known.name
    stranger = replace(known, loaded=bytes(48))
    monkeypatch.setattr(envelope, "parse_statement", lambda _: replace(GOLDEN, sev_snp=(stranger,)))
    verdict = run(data, given=[snp_reports.certificate(name)], **demands)
    assert [*failed(verdict)] == ["launch shape"]


# 1
def test_document_signed_by_a_stranger():
    stranger = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    found = run(golden=envelope.sign_document(GOLDEN, [stranger]))
    assert [*failed(found)] == ["document signatures"]
    assert found.checks[14].status is Status.SKIPPED and not found.values


def test_one_signature_where_two_are_demanded():
    other = keys.generate(keys.KeyAlgorithm.ED25519).public()
    assert "document signatures" in failed(run(signers=(SIGNING_KEY.public(), other), threshold=2))


# 2
@pytest.mark.parametrize("golden", [b"", b"{}", b"\xff" * 100])
def test_document_that_is_junk(golden):
    verdict = run(golden=golden)
    assert "document signatures" in failed(verdict)


# 3
def test_rollback_to_a_version_below_the_floor():
    assert "SVN 3 is below the floor 4" in failed(run(svn=4))["validity"]


def test_document_of_another_image_signed_by_the_same_key():
    assert [*failed(run(image="gpu-cc"))] == ["validity"]


def test_document_that_expired():
    assert "validity" in failed(run(now=NOW + timedelta(days=5000)))


# 4
@pytest.mark.parametrize("data", [b"", bytes(1184), snp_reports.report("genoa-v5")[:-1]])
def test_report_that_is_junk(data):
    verdict = run(data)
    assert [*failed(verdict)] == ["report"]
    assert verdict.checks[14].status is Status.SKIPPED


# 5
def test_chain_that_the_attacker_made():
    assert "certificate chain" in failed(run(trusted=None))


def test_report_without_its_certificate():
    assert "certificate chain" in failed(run(given=[]))


# 6
def test_certificate_of_another_chip():
    other = AUTHORITY.endorse(KEY.public_key(), chip_id=b"x" * 64)
    found = failed(run(given=[snp_reports.der(other), CERTIFICATES[1]]))
    assert [*found] == ["endorsement key"]


# 7
def test_report_signed_by_another_key():
    forger = ec.generate_private_key(ec.SECP384R1())
    assert [*failed(run(report(key=forger)))] == ["signature"]


def test_digest_written_into_a_report_of_another_guest():
    data = bytearray(report(bytes(48)))
    data[DIGEST : DIGEST + 48] = LAUNCHES[1].launch_digest.value
    verdict = run(bytes(data))
    assert [*failed(verdict)] == ["signature"] and verdict.checks[14].status is Status.OK


# 8
def test_report_of_an_old_request():
    assert [*failed(run(report_data=report_data_of(b"m" * 32)))] == ["report data"]


def test_without_a_nonce_the_verdict_says_so():
    verdict = run(report_data=Unproven(reason="an archive"))
    assert verdict.passed and verdict.warnings == ("report data: an archive",)


# 9
def test_guest_that_its_host_may_debug():
    found = failed(run(report(policy=(0xB0000).to_bytes(8, "little"))))
    assert [*found] == ["guest policy"] and "debug_allowed" in found["guest policy"]


# 10
def test_firmware_of_the_processor_below_the_floor():
    assert [*failed(run(minimum_tcb=TcbVersion(bootloader=11, tee=0, snp=27, microcode=88)))] == ["TCB"]


# 11
def test_report_asked_for_by_a_less_privileged_level():
    assert [*failed(run(report(vmpl=(3).to_bytes(4, "little"))))] == ["privilege level"]


# 12
def test_host_data_that_the_host_made_up():
    assert [*failed(run(report(host=b"h" * 32)))] == ["host data"]


# 13, 14
def test_launch_with_an_id_block_of_the_release():
    verdict = run(with_block(), id_key_digest=ID_KEY, author_key_digest=AUTHOR_KEY)
    assert verdict.passed, verdict.failures
    assert verdict.checks[13].detail == "base 0.1.0, SVN 3"


def test_launch_without_the_id_block_that_is_demanded():
    assert {"identity", "ID block"} == set(failed(run(id_key_digest=ID_KEY)))


def test_id_block_of_another_owner():
    assert [*failed(run(with_block(id_key=b"x" * 48), id_key_digest=ID_KEY))] == ["identity"]
    found = failed(run(with_block(), id_key_digest=ID_KEY, author_key_digest=b"x" * 48))
    assert [*found] == ["identity"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"svn": 2}, "guest SVN is 2; expected 3"),
        ({"image": "gpu-cc"}, "family id is"),
        ({"version": "0.9"}, "image id is"),
    ],
)
def test_id_block_of_another_release_by_the_same_owner(change, words):
    found = failed(run(with_block(**change), id_key_digest=ID_KEY))
    assert [*found] == ["ID block"] and words in found["ID block"]


def test_author_key_without_an_id_key_cannot_be_demanded():
    with pytest.raises(FormatError, match="without the ID key"):
        policy(author_key_digest=AUTHOR_KEY)


# 15: the host launched something else; each is named where an option explains it
def launched(**options):
    return snp(**({"vcpus": 2, "cpu": "EPYC-Milan"} | options)).launch_digest.value


def without_fpu(vcpus=2):
    """Return the digest that a host before Linux 6.10 makes: MXCSR and the x87 control word are zero."""
    reference = snp(vcpus=vcpus)
    steps = list(reference.steps)
    for at, step in enumerate(steps):
        if step.cause.startswith("vCPU"):
            start = 0xFFFFFFF0 if step.cause == "vCPU 1" else 0x80B004
            page = bytearray(reset_page(Vmm.QEMU, start=start, signature=0x00A00F11, features=1))
            assert hashlib.sha384(page).digest() == step.contents
            page[0x408:0x40C], page[0x410:0x412] = bytes(4), bytes(2)
            steps[at] = replace(step, contents=hashlib.sha384(page).digest())
    return replace(reference, steps=tuple(steps)).launch_digest.value


@pytest.mark.parametrize(
    ("digest", "words", "near"),
    [
        (launched(vcpus=3), "3 vCPUs in place of", "EPYC-Milan"),
        (launched(cpu="EPYC-Turin"), "a CPU model like EPYC-Turin in place of EPYC-", "2-vcpus"),
        (launched(cpu="EPYC-Rome", vcpus=7), "7 vCPUs in place of 4, a CPU model like EPYC-Rome", "4-vcpus"),
        (without_fpu(), "the host's kernel, which is older than Linux 6.10", "EPYC-Milan/2-vcpus"),
    ],
    ids=["another-number-of-vcpus", "another-cpu-model", "both", "an-old-host"],
)
def test_launch_with_other_options(digest, words, near):
    verdict = run(report(digest))
    found = failed(verdict)
    assert [*found] == ["launch shape"]
    assert words in found["launch shape"] and near in verdict.shape
    (value,) = verdict.values
    assert not value.equal and words in value.reason


def test_host_that_leaves_the_kernel_hashes_out():
    """Then the firmware starts any kernel: QEMU's kernel-hashes=off on firmware with an area for them."""
    found = failed(run(report(launched(uki=None))))
    assert "the kernel hashes, which the host left out: it may start any kernel" in found["launch shape"]


@pytest.mark.parametrize("options", [{"uki": b"evil kernel"}, {"seed": b"evil firmware"}])
def test_other_kernel_or_firmware(options):
    found = failed(run(report(launched(**options))))
    assert [*found] == ["launch shape"]
    assert "another firmware, kernel, initrd or command line" in found["launch shape"]


def test_launch_that_the_policy_does_not_name():
    name = LAUNCHES[0].name
    assert run(report(LAUNCHES[0].launch_digest.value), shape=name).passed
    found = failed(run(shape=name))
    assert "2 vCPUs in place of 1" in found["launch shape"]
    assert "has no SEV-SNP launch 'other'" in failed(run(shape="other"))["launch shape"]


def test_release_that_has_no_such_launch():
    found = failed(run(golden=signed(document(prediction()))))
    assert [*found] == ["launch shape"] and "has no SEV-SNP launch" in found["launch shape"]


def test_digest_that_binds_no_image():
    """A launch without kernel hashes is a launch of firmware: whatever is on the disk boots."""
    disk = snp(uki=None)
    assert disk.boot is BootPath.DISK
    golden, data = signed(replace(GOLDEN, sev_snp=(disk,))), report(disk.launch_digest.value)
    assert "without kernel hashes" in failed(run(data, golden=golden))["launch shape"]
    verdict = run(data, golden=golden, firmware_only=True)
    assert verdict.passed and "what boots is not in the digest" in verdict.warnings[0]


# 16
def test_image_that_expects_gpus():
    """A report says nothing of them: an attacker could give the guest none, or others."""
    golden = signed(replace(GOLDEN, gpu=EXPECTED))
    found = failed(run(golden=golden))
    assert [*found] == ["GPUs"] and "judge the machine's evidence" in found["GPUs"]
    verdict = run(golden=golden, gpu=Unproven(reason="by its evidence"))
    assert verdict.passed and "NO GPU IS JUDGED" in verdict.warnings[0]


def test_json_has_the_contracts_shape():
    told = json.loads(json.dumps(launch_to_json(run())))
    assert told["verdict"] == "pass" and told["shape"] == LAUNCHES[1].name
    assert told["registers"]["launch_digest"]["equal"] is True
    assert told["registers"]["launch_digest"]["predicted"] == told["registers"]["launch_digest"]["observed"]


REPORT = report()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_mutated_reports_never_pass_and_never_raise(data):
    mutated = bytearray(REPORT)
    # Behind S of the signature the structure is reserved and signed by nobody; it must be zero.
    mutated[data.draw(st.integers(0, 0x2A0 + 143))] ^= data.draw(st.integers(1, 255))
    assert not run(bytes(mutated)).passed


def test_features_that_the_host_switched_on():
    debug_swap = int(SevFeatures.SNP_ACTIVE | SevFeatures.DEBUG_SWAP)
    reference = snp(vcpus=1)
    page = reset_page(Vmm.QEMU, start=0xFFFFFFF0, signature=0x00A00F11, features=debug_swap)
    steps = (*reference.steps[:-1], replace(reference.steps[-1], contents=hashlib.sha384(page).digest()))
    found = failed(run(report(replace(reference, steps=steps).launch_digest.value)))
    assert "SEV_FEATURES 0x21 in place of 0x1" in found["launch shape"]


def test_firmware_is_told_apart_by_its_name():
    other = replace(
        LAUNCHES[1], firmware=FirmwareIdentity.of("another", b"the same digest under another name")
    )
    golden = signed(replace(GOLDEN, sev_snp=(LAUNCHES[1], other)))
    verdict = run(golden=golden)
    assert verdict.passed and "the digest is also that of qemu-snp/another" in verdict.checks[14].detail
