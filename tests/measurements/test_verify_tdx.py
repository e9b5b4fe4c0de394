"""TDX quotes against a golden document: one that hardware signed passes, and each check refuses its attack."""

import copy
import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import layer_samples
import pytest
import tdx_quotes
import tdx_recorded
from attester import SIGNING_KEY, Machine, signed
from gpu_evidence import EXPECTED
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements import envelope, keys
from measurements.errors import FormatError
from measurements.events import (
    Digest,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Stability,
    digests_of,
)
from measurements.image_layer import ImageEvent, Slot
from measurements.policy import ALL_PINNED, Unproven
from measurements.prediction import FirmwareIdentity
from measurements.profile import profile_of
from measurements.tdx import intel
from measurements.tdx.mrtd import PageOrder
from measurements.tdx.policy import Bits, ReportData, TcbPolicy
from measurements.verify.release import ReleasePolicy, launch_to_json
from measurements.verify.tdx import TdPolicy, verify_quote
from measurements.verify.verdict import Status

SHA384 = HashAlgorithm.SHA384
SIGNERS = (SIGNING_KEY.public(),)
ENVELOPE = signed(tdx_recorded.release())
ZEROS = bytes(48)


def policy(*, threshold=1, signers=SIGNERS, now=tdx_recorded.NOW, svn=3, image=None, shape=None, profiles=(), gpu=None,
           **demands):  # fmt: skip
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
    tcb = TcbPolicy(collateral=tdx_recorded.collateral(), accepted=frozenset({"UpToDate"}))
    return TdPolicy(
        **{
            "release": release,
            "roots": (intel.sgx_root_ca(),),
            "tcb": tcb,
            "report_data": ReportData(value=tdx_recorded.REPORT_DATA),
            # Its applications extended RTMR3, and its owner set MRCONFIGID: both are known from elsewhere in real life.
            "rtmr3": frozenset({tdx_recorded.RTMR3_VALUE}),
            "mrconfigid": frozenset({tdx_recorded.MRCONFIGID}),
            "mrowner": frozenset({ZEROS}),
            "mrownerconfig": frozenset({ZEROS}),
            "attributes": Bits.exactly(1 << 28),
            "xfam": Bits.exactly(0x602E7),
        }
        | demands
    )


def run(quote=tdx_recorded.QUOTE, *, golden=ENVELOPE, event_log=None, **demands):
    return verify_quote(golden, quote, policy(**demands), event_log=event_log)


def failed(verdict):
    """Return what failed, by name."""
    assert not verdict.passed
    return {check.name: check.detail for check in verdict.checks if check.status is Status.FAILED}


def with_release(*references):
    return signed(tdx_recorded.release(*references))


def changed(imr, number, digest=b"evil"):
    """Return the log in which one event of a register has another digest."""
    records = copy.deepcopy(tdx_recorded.RECORDS)
    places = [at for at, item in enumerate(records) if item["imr"] == imr]
    records[places[number]]["digest"] = hashlib.sha384(digest).hexdigest()
    return records


def expecting(imr, number, **changes):
    """Return a document that expects another event there: what another image, disk or shape would have measured."""
    registers = list(tdx_recorded.reference().registers)
    registers[imr] = tdx_recorded.register(imr, records=changed(imr, number))
    return with_release(tdx_recorded.reference(registers=tuple(registers), **changes))


def not_pinned(index, reason="its ACPI tables are not known"):
    registers = list(tdx_recorded.reference().registers)
    registers[index] = RegisterPrediction(
        index=index, stability=Stability.NOT_PINNED, alternatives=(), reason=reason
    )
    return tuple(registers)


@pytest.mark.parametrize("event_log", [None, tdx_recorded.ccel()], ids=["registers-alone", "with-its-log"])
def test_quote_of_a_real_machine(event_log):
    verdict = run(event_log=event_log)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert [check.number for check in verdict.checks] == [*range(1, 21)]
    assert verdict.shape == "qemu-tdx/unpublished/direct/8-vcpus/65536-mib"
    assert [(item.name, item.equal, item.pinned) for item in verdict.values] == [
        (name, True, True) for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    ]


def layer_of(reference):
    """What the image of a trust domain decides: its event in RTMR1, and RTMR2."""
    plain = layer_samples.layer_of(Machine())
    (image,) = (
        event
        for event in reference.registers[1].alternatives[0].events
        if event.type is EventType.EFI_BOOT_SERVICES_APPLICATION
    )
    elsewhere = digests_of(b"not measured on this machine", plain.banks)
    told = ImageEvent(digests={**elsewhere, **image.digests}, data=image.data)
    return replace(plain, events={Slot.APPLICATION: told}, rtmrs=reference.registers[2:])


def rolled():
    """A release that knows other firmware alone, and a profile of the recorded one, on which another image ran."""
    genuine = tdx_recorded.reference()
    firmware = FirmwareIdentity.of("old", b"the firmware of yesterday")
    old = replace(
        genuine, firmware=firmware, mrtd=dict.fromkeys(PageOrder, Digest.of(SHA384, b"yesterday's"))
    )
    images = [at for at, item in enumerate(tdx_recorded.RECORDS) if item["imr"] == 1]
    kind = EventType.EFI_BOOT_SERVICES_APPLICATION
    number = next(n for n, at in enumerate(images) if tdx_recorded.RECORDS[at]["event_type"] == kind)
    registers = list(genuine.registers)
    registers[1] = tdx_recorded.register(1, records=changed(1, number, b"another image"))
    registers[2] = tdx_recorded.register(2, records=changed(2, 0, b"another command line"))
    theirs = replace(genuine, registers=tuple(registers))
    release = replace(tdx_recorded.release(old), image_layer=layer_of(genuine))
    return signed(release), (profile_of(layer_of(theirs), name="tdvf", tdx=[theirs]),), theirs


@pytest.mark.parametrize("event_log", [None, tdx_recorded.ccel()], ids=["registers-alone", "with-its-log"])
def test_firmware_of_a_profile_passes_and_without_it_does_not(event_log):
    """A quote that hardware signed, of firmware that the release does not know."""
    golden, profiles, _ = rolled()
    assert "launch shape" in failed(run(golden=golden, event_log=event_log))
    verdict = run(golden=golden, profiles=profiles, event_log=event_log)
    assert verdict.passed and not verdict.warnings, verdict.failures
    assert verdict.shape == "qemu-tdx/unpublished/direct/8-vcpus/65536-mib"
    assert any(f"{verdict.shape}, by the verifier's profile tdvf" in check.detail for check in verdict.checks)


def test_a_profile_does_not_bring_its_authors_image():
    """The quote is of the release's image; under a release of the author's image the same profile refuses it."""
    _, profiles, theirs = rolled()
    other = signed(replace(tdx_recorded.release(), tdx=(), image_layer=layer_of(theirs)))
    assert {"launch shape", "registers"} <= set(failed(run(golden=other, profiles=profiles)))


def test_register_that_the_document_does_not_pin_is_a_warning():
    golden = with_release(tdx_recorded.reference(registers=not_pinned(0)))
    verdict = run(golden=golden)
    assert verdict.passed and "RTMR0 (its ACPI tables are not known)" in verdict.warnings[0]
    zero = next(item for item in verdict.values if item.name == "rtmr0")
    assert (zero.pinned, zero.predicted, zero.reason) == (False, (), "its ACPI tables are not known")


def test_verifier_that_does_not_control_the_vm_shape():
    golden = expecting(0, 8)
    assert {"registers", "launch shape"} == set(failed(run(golden=golden)))
    verdict = run(golden=golden, pin=ALL_PINNED - {Stability.VM_SHAPE})
    assert verdict.passed and "leaves out registers of kind vm-shape" in verdict.warnings[0]


# 1 to 3
def test_document_signed_by_a_stranger():
    stranger = keys.generate(keys.KeyAlgorithm.ECDSA_P256)
    verdict = run(golden=envelope.sign_document(tdx_recorded.release(), [stranger]))
    assert [*failed(verdict)] == ["document signatures"]
    assert verdict.checks[17].status is Status.SKIPPED and not verdict.values


def test_one_signature_where_two_are_demanded():
    other = keys.generate(keys.KeyAlgorithm.ED25519).public()
    assert "document signatures" in failed(run(signers=(SIGNING_KEY.public(), other), threshold=2))


@pytest.mark.parametrize("golden", [b"", b"{}", b"\xff" * 100])
def test_document_that_is_junk(golden):
    assert "document signatures" in failed(run(golden=golden))


def test_rollback_to_a_version_below_the_floor():
    assert [*failed(run(svn=4))] == ["validity"]


def test_document_of_another_image_signed_by_the_same_key():
    assert [*failed(run(image="gpu-cc"))] == ["validity"]


# 4
@pytest.mark.parametrize("quote", [b"", bytes(5000), tdx_recorded.QUOTE[:-600]])
def test_quote_that_is_junk(quote):
    verdict = run(quote)
    assert [*failed(verdict)] == ["structure"] and verdict.checks[17].status is Status.SKIPPED


# 5 to 13: the chain of trust, with quotes of a platform of our own
PLATFORM = tdx_quotes.Platform()
#: What an attacker may put into a TD report.
TD_FIELDS = {"svn", "signer", "attributes", "xfam", "mrtd", "report_data", "mrowner"}


def own_quote(platform=PLATFORM, *, rtmr=None, **changes):
    """Return a quote of an imaginary platform about the recorded trust domain."""
    values = [item.value(SHA384).value for each in tdx_recorded.reference().registers[:3]
              for item in each.alternatives]  # fmt: skip
    for index, value in (rtmr or {}).items():
        values[index] = value
    fields = {name: changes.pop(name) for name in [*changes] if name in TD_FIELDS}
    report = tdx_quotes.td_report(
        **{"mrtd": tdx_recorded.MRTD.value, "rtmrs": (*values, ZEROS), "xfam": 0x602E7} | fields
    )
    return tdx_quotes.quote(platform, report=report, **changes)


def run_own(quote=None, *, platform=PLATFORM, **demands):
    own = {
        "now": tdx_quotes.NOW,
        "roots": platform.certificates()[:1],
        "tcb": TcbPolicy(collateral=platform.collateral(), accepted=frozenset({"UpToDate"})),
        "report_data": ReportData(value=tdx_quotes.REPORT_DATA),
        "rtmr3": frozenset({ZEROS}),
        "mrconfigid": frozenset({ZEROS}),
    }
    return run(own_quote(platform) if quote is None else quote, **own | demands)


def test_platform_of_our_own_passes():
    verdict = run_own()
    assert verdict.passed, verdict.failures


ATTACKS = {
    "roots_that_nobody_trusts": (None, {"roots": (intel.sgx_root_ca(),)}, "certificates"),
    "expired_collateral": (None, {"now": tdx_quotes.NOW + timedelta(days=60)}, "collateral"),
    "quoting_enclave_that_the_machine_did_not_certify": (own_quote(pck="authority"), {}, "QE report"),
    "attestation_key_of_another_enclave": (own_quote(bound_key="other"), {}, "attestation key"),
    "body_that_the_key_did_not_sign": (own_quote(signing_key="other"), {}, "signature"),
    "enclave_that_is_not_intels": (own_quote(enclave={"signer": bytes(32)}), {}, "QE identity"),
    "module_that_is_not_intels": (own_quote(signer=b"x" * 48), {}, "TDX module"),
    "module_that_is_out_of_date": (own_quote(svn=bytes([3, 0, *([1] * 14)])), {}, "TCB status"),
    "debug_mode": (own_quote(attributes=1 << 28 | 1), {}, "attributes"),
    "features_that_were_not_allowed": (own_quote(xfam=0x600E7), {}, "attributes"),
    "old_quote": (own_quote(report_data=bytes(64)), {}, "report data"),
    "another_owner": (own_quote(mrowner=b"x" * 48), {}, "registers"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_on_the_quote(attack):
    quote, demands, check = ATTACKS[attack]
    assert check in failed(run_own(quote, **demands))


def test_certificate_that_intel_revoked():
    revoked = tdx_quotes.Platform(revoked=("pck",))
    assert "revocation" in failed(run_own(own_quote(revoked), platform=revoked))


def test_without_collateral_the_verdict_says_so():
    verdict = run(tcb=Unproven(reason="not fetched"))
    assert verdict.passed and any("collateral" in line for line in verdict.warnings)


# 16, 18: values
@pytest.mark.parametrize(
    ("rtmr", "name", "words"),
    [
        (0, "RTMR0", "another memory size, device, VMM, firmware or Secure Boot key"),
        (1, "RTMR1", "another image, disk, or course of the boot"),
        (2, "RTMR2", "another UKI section, command line or initrd"),
    ],
)
def test_another_image_or_shape(rtmr, name, words):
    verdict = run_own(own_quote(rtmr={rtmr: b"e" * 48}))
    found = failed(verdict)
    assert [*found] == ["registers", "launch shape"]
    assert f"{name} differs ({words})" in found["launch shape"]
    wrong = [item for item in verdict.values if item.pinned and not item.equal]
    assert [item.name for item in wrong] == [name.lower()] and words in wrong[0].reason


def test_another_firmware():
    found = failed(run_own(own_quote(mrtd=b"f" * 48)))
    assert "MRTD differs (another firmware file)" in found["launch shape"]


def test_application_that_extended_rtmr3():
    found = failed(run(rtmr3=frozenset({ZEROS})))
    assert [*found] == ["registers"] and "RTMR3 is 74c3f1e6" in found["registers"]
    assert run(rtmr3=Unproven(reason="applications extend it")).passed


def test_values_of_two_launches_are_no_launch():
    """Each register is acceptable for some launch, but no launch has both: another command line on another kernel."""
    one, two = (list(tdx_recorded.reference().registers) for _ in range(2))
    one[1] = tdx_recorded.register(1, records=changed(1, 0))
    two[2] = tdx_recorded.register(2, records=changed(2, 0))
    golden = with_release(
        tdx_recorded.reference(registers=tuple(one), vcpus=1),
        tdx_recorded.reference(registers=tuple(two), vcpus=2),
    )
    found = failed(run(golden=golden))
    assert [*found] == ["launch shape"]


def test_launch_that_pins_nothing_of_the_image():
    for index in (1, 2):
        golden = with_release(tdx_recorded.reference(registers=not_pinned(index)))
        found = failed(run(golden=golden))
        assert [*found] == ["launch shape"] and f"does not pin RTMR{index}" in found["launch shape"]
    with pytest.raises(FormatError, match="image"):
        policy(pin=ALL_PINNED - {Stability.IMAGE})


def test_release_that_has_no_trust_domain():
    golden = signed(replace(tdx_recorded.release(), tdx=()))
    assert "has no trust domain" in failed(run(golden=golden))["launch shape"]
    assert "has no trust domain 'other'" in failed(run(shape="other"))["launch shape"]


def test_either_page_order_is_named():
    mrtd = {PageOrder.ONE_PASS: Digest(SHA384, ZEROS), PageOrder.TWO_PASS: tdx_recorded.MRTD}
    verdict = run(golden=with_release(tdx_recorded.reference(mrtd=mrtd)))
    assert verdict.passed and "MRTD in two pass" in verdict.checks[17].detail


# 17, 19: the log explains, and must be honest
LOG = tdx_recorded.ccel()


@pytest.mark.parametrize(
    ("imr", "number", "words"),
    [
        (0, 0, "RTMR0: memory size differs"),
        (0, 8, "RTMR0: VM shape differs"),
        (1, 0, "RTMR1: uki differs"),
        (2, 0, "RTMR2: command line differs"),
        (2, 1, "RTMR2: initrd differs"),
    ],
)
def test_log_names_the_event_that_differs(imr, number, words):
    verdict = run(golden=expecting(imr, number), event_log=LOG)
    found = failed(verdict)
    assert {"registers", "launch shape", "events"} == set(found)
    assert words in found["launch shape"] and words in found["events"]
    assert words in next(item.reason for item in verdict.values if item.name == f"rtmr{imr}")


def test_log_that_was_edited():
    edited = tdx_recorded.ccel(changed(2, 0))
    found = failed(run(event_log=edited))
    assert [*found] == ["event log"] and "does not fold to the quoted RTMR2" in found["event log"]


def test_log_with_an_event_left_out():
    records = [item for at, item in enumerate(tdx_recorded.RECORDS) if at != 3]
    assert "RTMR0" in failed(run(event_log=tdx_recorded.ccel(records)))["event log"]


@pytest.mark.parametrize("log", [b"", b"\xff" * 64, b"junk" * 100])
def test_log_that_is_junk(log):
    assert "event log" in failed(run(event_log=log))


def test_log_that_extends_mrtd():
    records = [{"imr": -1, "event_type": 4, "digest": "00" * 48, "event_payload": ""}]
    assert "which nothing can extend" in failed(run(event_log=tdx_recorded.ccel(records)))["event log"]


def test_log_tells_memory_sizes_apart_that_no_register_pins():
    """Without RTMR0 both launches fit; the log shows which, and a third size is refused."""
    other = Digest(SHA384, hashlib.sha384(b"32 GiB").digest())
    large = tdx_recorded.reference(registers=not_pinned(0))
    small = replace(large, memory_mib=32768, td_hob=other)
    golden = with_release(small, large)
    assert "its pinned registers are also those of" in run(golden=golden).checks[17].detail
    verdict = run(golden=golden, event_log=LOG)
    assert verdict.passed and verdict.shape == large.name
    found = failed(run(golden=with_release(small), event_log=LOG))
    assert "TD HOB differs (another memory size)" in found["launch shape"]


# 20
def test_image_that_expects_gpus():
    golden = signed(replace(tdx_recorded.release(), gpu=EXPECTED))
    assert [*failed(run(golden=golden))] == ["GPUs"]
    verdict = run(golden=golden, gpu=Unproven(reason="by its evidence"))
    assert verdict.passed and "NO GPU IS JUDGED" in verdict.warnings[0]


def test_json_has_the_contracts_shape():
    told = json.loads(json.dumps(launch_to_json(run())))
    assert told["verdict"] == "pass"
    assert set(told["registers"]) == {"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert told["registers"]["rtmr1"]["predicted"] == told["registers"]["rtmr1"]["observed"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_quotes_never_pass_and_never_raise(data):
    mutated = bytearray(tdx_recorded.QUOTE)
    position = data.draw(st.integers(0, 48 + 584 + 4 + 64 + 64 - 1))
    mutated[position] ^= data.draw(st.integers(1, 255))
    assert not run(bytes(mutated)).passed


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_logs_never_raise_and_never_hide_an_event(data):
    mutated = bytearray(LOG)
    mutated[data.draw(st.integers(0, len(LOG) - 1))] ^= data.draw(st.integers(1, 255))
    verdict = run(event_log=bytes(mutated))
    assert {check.name for check in verdict.checks if check.status is Status.FAILED} <= {
        "event log",
        "events",
    }
