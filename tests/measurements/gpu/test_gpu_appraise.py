"""The appraisal of a machine's GPUs: a genuine H100 passes, and each attack fails by the check that is about it."""

from __future__ import annotations

import dataclasses
import datetime
import subprocess
import sys

import pytest
from gpu_evidence import (
    CHAIN,
    DEVICES,
    DRIVER_PIN,
    DRIVER_RIM,
    DRIVER_VALUES,
    EXPECTED,
    GENUINE,
    MANIFESTS,
    NONCE,
    READY,
    RIMS,
    THEN,
    VBIOS_PIN,
    VBIOS_RIM,
    VBIOS_VALUES,
    Gpu,
    certificate,
    crl,
    entry,
    machine,
    manifest,
    pem,
    reference,
    signed,
)

from measurements.gpu.appraise import CHECKS, Policy, appraise, to_json
from measurements.gpu.certificates import load_chain
from measurements.gpu.evidence import GateRecord, GateStep
from measurements.gpu.rim import RimKind
from measurements.gpu.verify import CHECKS as GPU_CHECKS

NAMES = [name for name, _ in CHECKS]
BOTH = (DRIVER_RIM, VBIOS_RIM)
REAL = Policy(at=THEN, rims_at=None, rim_root=MANIFESTS.root)
OURS = dataclasses.replace(REAL, device_root=DEVICES.root)
EIGHT = dataclasses.replace(EXPECTED, count=8)
GPUS = [Gpu() for _ in range(8)]
REFUSED = GateRecord(
    ready=False, reason="no GPU in confidential mode", steps=(GateStep(name="mode", ok=False),)
)


def judged(evidence, expected=EXPECTED, rims=BOTH, policy=REAL, nonce=NONCE):
    return appraise(evidence, expected, rims, nonce=nonce, policy=policy)


def failed(appraisal):
    return [check.name for check in appraisal.checks if not check.ok]


def detail(appraisal, name):
    return next(check.detail for check in appraisal.checks if check.name == name)


def eight(**replaced):
    """Eight GPUs of ours; ``at`` and ``gpu`` put another in the place of one."""
    entries = [entry(gpu, number) for number, gpu in enumerate(GPUS, 1)]
    if replaced:
        entries[replaced["at"]] = replaced["gpu"]
    return machine(*entries)


def test_a_genuine_h100():
    """NVIDIA's recorded evidence; manifests with NVIDIA's values are signed by a test's authority."""
    found = judged(machine())
    assert found.passed and not found.failures
    assert [check.name for check in found.checks] == NAMES and len(NAMES) == 14
    assert detail(found, "GPUs") == "32 measurements equal"
    assert detail(found, "VBIOS") == "96.00.9F.00.01" and detail(found, "architecture") == "hopper (GH100)"
    assert judged(machine(), rims=BOTH[::-1]).passed
    (verdict,) = found.gpus
    assert verdict.passed and len(verdict.checks) == len(GPU_CHECKS)
    # Nobody gave revocation lists, and the appraisal says so.
    assert len(found.warnings) == 1 and found.warnings[0].startswith("revocation: UNPROVEN for ")


def test_eight_gpus():
    found = judged(eight(), EIGHT, policy=OURS)
    assert found.passed and len(found.gpus) == 8 and len(found.warnings) == 1


def test_what_scripts_read():
    value = to_json(judged(machine()))
    assert value["verdict"] == "pass" and len(value["gpus"]) == 1
    assert value["checks"][0] == {"number": 1, "name": "evidence", "ok": True, "detail": "1 GPUs"}
    wrong = to_json(judged(machine(developer_tools=True)))
    assert wrong["verdict"] == "fail" and wrong["checks"][4]["ok"] is False


def test_the_guest_could_not_collect():
    found = judged(machine(error="NVML: GPU is lost"))
    assert failed(found) == ["evidence"] and "GPU is lost" in detail(found, "evidence")


@pytest.mark.parametrize(
    ("state", "checks"),
    [
        ("driver_version", ["evidence", "driver"]),
        ("confidential_mode", ["evidence", "confidential mode"]),
        ("developer_tools", ["evidence", "developer tools"]),
        ("ready", ["evidence", "gate"]),
        ("nvswitches", ["evidence", "NVSwitch count"]),
    ],
)
def test_a_state_that_nobody_read(state, checks):
    assert failed(judged(machine(**{state: None}))) == checks


def test_replayed_evidence():
    found = judged(machine(), nonce=bytes(32))
    assert failed(found) == ["nonce", "GPUs"] and "another or an old answer" in detail(found, "nonce")


def test_an_old_report_under_a_new_nonce():
    """The document says the new nonce, the report that the GPU signed has the old one."""
    found = judged(machine(nonce=bytes(32)), nonce=bytes(32))
    assert failed(found) == ["GPUs"] and f"nonce: the report answers {NONCE.hex()}" in detail(found, "GPUs")


def test_the_gate_refused():
    found = judged(machine(gate=REFUSED, ready=False))
    assert failed(found) == ["gate"]
    assert detail(found, "gate") == "the gate refused: no GPU in confidential mode"


def test_the_gate_never_ran():
    found = judged(machine(gate=GateRecord(ready=True)))
    assert failed(found) == ["gate"] and "there is none" in detail(found, "gate")


def test_a_gate_that_contradicts_its_steps():
    steps = (GateStep(name="order", ok=True), GateStep(name="verify", ok=False))
    found = judged(machine(gate=GateRecord(ready=True, steps=steps)))
    assert failed(found) == ["gate"] and "verify" in detail(found, "gate")


def test_ready_state_taken_back():
    found = judged(machine(ready=False))
    assert failed(found) == ["gate"] and detail(found, "gate").endswith("the ready state is off")


def test_the_gates_own_run():
    """Before it decides there is no record to believe, and the ready state must be off."""
    gate = dataclasses.replace(REAL, decided=False)
    undecided = GateRecord(ready=False, reason="not decided yet")
    assert judged(machine(gate=undecided, ready=False), policy=gate).passed


@pytest.mark.parametrize("state", [True, None])
def test_ready_before_attested(state):
    """The defect of others: the GPU is given work before anyone looked at it."""
    gate = dataclasses.replace(REAL, decided=False)
    found = judged(machine(gate=READY, ready=state), policy=gate)
    assert "gate" in failed(found) and "before the gate has decided" in detail(found, "gate")


def test_confidential_mode_off():
    assert failed(judged(machine(confidential_mode=False))) == ["confidential mode"]


def test_developer_tools_on():
    assert failed(judged(machine(developer_tools=True))) == ["developer tools"]


def test_another_driver_loaded():
    assert failed(judged(machine(driver_version="550.90.08"))) == ["driver"]


def test_no_gpu():
    found = judged(dataclasses.replace(machine(), gpus=()))
    assert failed(found) == ["GPU count", "distinct GPUs", "architecture", "GPUs", "measured driver", "VBIOS"]
    assert not found.gpus


def test_a_gpu_less_and_a_gpu_more():
    missing = dataclasses.replace(eight(), gpus=eight().gpus[:7])
    assert failed(judged(missing, EIGHT, policy=OURS)) == ["GPU count"]
    assert failed(judged(eight(), dataclasses.replace(EXPECTED, count=7), policy=OURS)) == ["GPU count"]


def test_nvswitches_that_nobody_expects():
    assert failed(judged(machine(nvswitches=4))) == ["NVSwitch count"]
    four = dataclasses.replace(EXPECTED, nvswitches=4)
    assert (
        failed(judged(machine(), four)) == ["NVSwitch count"] and judged(machine(nvswitches=4), four).passed
    )


def test_the_same_gpu_twice():
    two = dataclasses.replace(EXPECTED, count=2)
    other = dataclasses.replace(GENUINE, uuid="GPU-00000000-0000-0000-0000-000000000002")
    found = judged(machine(GENUINE, other), two)
    assert failed(found) == ["distinct GPUs"] and "stands there twice" in detail(found, "distinct GPUs")
    assert failed(judged(machine(entry(Gpu()), entry(Gpu())), two, policy=OURS)) == ["distinct GPUs"]


def test_the_same_gpu_twice_with_two_attestation_keys():
    """One chip, restarted with other firmware in between, has another attestation key under its one identity."""
    chip = Gpu().key
    identity = certificate("GH100 A01 GSP BROM", chip, DEVICES.issuer, DEVICES.key)

    def restarted(number):
        gpu = Gpu()
        leaf = certificate(gpu.name, gpu.key, identity, chip, ca=False)
        return entry(gpu, number, certificates=pem(leaf, identity, DEVICES.issuer, DEVICES.root))

    two = dataclasses.replace(EXPECTED, count=2)
    found = judged(machine(restarted(1), restarted(2)), two, policy=OURS)
    assert failed(found) == ["distinct GPUs"]
    assert judged(machine(restarted(1)), policy=OURS).passed


def test_a_manifest_that_the_image_does_not_pin():
    """Genuine, signed by NVIDIA, and of another VBIOS; or of this very version, and other bytes."""
    for foreign in (RIMS["vbios-96.00.5E.00.01.swidtag"], signed(manifest("96.00.9F.00.01", VBIOS_VALUES))):
        found = judged(machine(), rims=(*BOTH, foreign))
        assert failed(found) == ["reference values"] and "does not pin" in detail(found, "reference values")
    assert failed(judged(machine(), rims=(DRIVER_RIM, foreign))) == ["reference values", "GPUs"]


def test_a_manifest_dropped():
    for given, name in (((DRIVER_RIM,), VBIOS_PIN.id), ((VBIOS_RIM,), DRIVER_PIN.id)):
        found = judged(machine(), rims=given)
        assert failed(found) == ["reference values", "GPUs"] and name in detail(found, "reference values")
    assert failed(judged(machine(), rims=())) == ["reference values", "GPUs"]


def test_a_manifest_twice():
    assert failed(judged(machine(), rims=(*BOTH, VBIOS_RIM))) == ["reference values", "GPUs"]


@pytest.mark.parametrize(("kept", "given"), [(DRIVER_PIN, DRIVER_RIM), (VBIOS_PIN, VBIOS_RIM), (None, None)])
def test_an_image_without_reference_values(kept, given):
    """What a recipe without `goldsmith rim add` ships: it says what it expects, and accepts no GPU."""
    pinned = dataclasses.replace(EXPECTED, rims=(kept,) if kept else ())
    found = judged(machine(), pinned, rims=(given,) if given else ())
    assert failed(found) == ["reference values", "GPUs"]
    assert "pins no reference values" in detail(found, "reference values")


def test_a_pinned_manifest_that_nobody_of_nvidias_signed():
    """Pinning believes bytes; their signature is judged all the same."""
    found = judged(machine(), policy=Policy(at=THEN, rims_at=None))
    assert failed(found) == ["GPUs"] and "RIM signatures" in detail(found, "GPUs")


def test_when_manifests_are_judged():
    """Imported in 2024, their signer expires in 2034: a guest judges as of the import, others as of their own time."""
    late = THEN + datetime.timedelta(days=5000)
    chain = load_chain(CHAIN)
    assert all(each.not_valid_after_utc > late for each in chain)
    assert judged(machine(), policy=dataclasses.replace(REAL, at=late)).passed
    found = judged(machine(), policy=dataclasses.replace(REAL, at=late, rims_at=late))
    assert failed(found) == ["GPUs"] and "RIM signatures" in detail(found, "GPUs")
    backdated = dataclasses.replace(DRIVER_PIN, judged_at=THEN.replace(year=2020))
    found = judged(machine(), dataclasses.replace(EXPECTED, rims=(backdated, VBIOS_PIN)))
    assert failed(found) == ["GPUs"] and "is valid from" in detail(found, "GPUs")


def test_a_chip_of_another_architecture():
    found = judged(machine(entry(Gpu(name="GB100 A01 GSP FMC LF"))), policy=OURS)
    assert failed(found) == ["architecture", "GPUs"]
    assert "its certificate is of GB100" in detail(found, "architecture")


def test_a_driver_that_misnames_the_architecture():
    found = judged(machine(dataclasses.replace(GENUINE, architecture="blackwell")))
    assert failed(found) == ["architecture"] and "calls it blackwell" in detail(found, "architecture")


def test_certificates_of_another_gpu():
    found = judged(machine(dataclasses.replace(GENUINE, certificates=Gpu().chain())), policy=OURS)
    assert failed(found) == ["GPUs"] and "report signature" in detail(found, "GPUs")


def test_one_of_eight_with_another_measurement():
    bad = Gpu(measurements={12: b"\1" * 48})
    found = judged(eight(at=4, gpu=entry(bad, 5)), EIGHT, policy=OURS)
    assert failed(found) == ["GPUs"]
    assert detail(found, "GPUs").startswith("GPU 5 (GPU-00000000-0000-0000-0000-000000000005): measurements:")
    assert [verdict.passed for verdict in found.gpus] == [True] * 4 + [False] + [True] * 3


def test_one_of_eight_that_answers_another_nonce():
    found = judged(eight(at=7, gpu=entry(Gpu(nonce=bytes(32)), 8)), EIGHT, policy=OURS)
    assert failed(found) == ["GPUs"] and "GPU 8" in detail(found, "GPUs")


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x11" * 400])
def test_one_of_eight_that_says_nothing_sensible(junk):
    whole = entry(GPUS[0])
    found = judged(eight(at=0, gpu=dataclasses.replace(whole, report=junk)), EIGHT, policy=OURS)
    assert failed(found) == ["GPUs", "measured driver", "VBIOS"]
    found = judged(eight(at=0, gpu=dataclasses.replace(whole, certificates=junk)), EIGHT, policy=OURS)
    assert failed(found) == ["distinct GPUs", "architecture", "GPUs"]


def test_a_report_of_another_driver():
    """Its manifest may be pinned by nobody; were it, the driver is still not the image's."""
    other = Gpu(opaque={3: b"550.54.15\0"})
    found = judged(machine(entry(other)), policy=OURS)
    assert failed(found) == ["GPUs", "measured driver"]
    assert "of driver 550.54.15" in detail(found, "measured driver")


def test_a_vbios_that_is_not_allowed():
    """Its manifest is pinned and every measurement equal; the list allows another."""
    second = signed(manifest("96.00.9F.00.02", VBIOS_VALUES))
    pin = reference("NV_GPU_VBIOS_1010_0200_882_96009F0002", RimKind.VBIOS, "96.00.9F.00.02", second)
    newer = Gpu(opaque={6: bytes.fromhex("009f009602000000")})
    every = dataclasses.replace(EXPECTED, vbios=None, rims=(DRIVER_PIN, VBIOS_PIN, pin))
    given = (*BOTH, second)
    assert judged(machine(entry(newer)), every, given, OURS).passed
    listed = dataclasses.replace(every, vbios=("96.00.9F.00.01", "96.00.9F.00.02"))
    assert judged(machine(entry(newer)), listed, given, OURS).passed
    found = judged(machine(entry(newer)), policy=OURS)
    assert failed(found) == ["GPUs", "VBIOS"] and "96.00.9F.00.02" in detail(found, "VBIOS")


def test_a_revoked_gpu():
    gpu = Gpu()
    chain = gpu.chain()
    evidence = machine(entry(gpu, certificates=chain))
    revoked = crl(DEVICES.issuer, DEVICES.key, load_chain(chain)[0])
    assert judged(evidence, policy=OURS).passed
    found = judged(evidence, policy=dataclasses.replace(OURS, crls=(revoked,)))
    assert failed(found) == ["GPUs"] and "revocation" in detail(found, "GPUs")


def test_values_of_the_driver_changed():
    """A manifest that says what the report does not, pinned and signed."""
    changed = signed(manifest("550.90.07", {**DRIVER_VALUES, 7: ["ab" * 48]}))
    pin = reference(DRIVER_PIN.id, RimKind.DRIVER, "550.90.07", changed)
    found = judged(machine(), dataclasses.replace(EXPECTED, rims=(pin, VBIOS_PIN)), (changed, VBIOS_RIM))
    assert failed(found) == ["GPUs"] and "measurements: 1 of 32 differ" in detail(found, "GPUs")


#: What the guest's interpreter has to load for this, beside the standard library and cryptography.
CLOSURE = {
    "measurements",
    "measurements.chains",
    "measurements.errors",
    "measurements.formats",
    "measurements.formats.reader",
    "measurements.gpu",
    "measurements.gpu.appraise",
    "measurements.gpu.certificates",
    "measurements.gpu.evidence",
    "measurements.gpu.expectations",
    "measurements.gpu.markup",
    "measurements.gpu.ocsp",
    "measurements.gpu.report",
    "measurements.gpu.revocation",
    "measurements.gpu.rim",
    "measurements.gpu.verify",
    "measurements.gpu.xmldsig",
    "measurements.moments",
    "measurements.strictjson",
}


def test_what_the_guest_has_to_load():
    """Nothing but these modules, the standard library and cryptography (which loads cffi's backend)."""
    program = (
        "import sys; import measurements.gpu.appraise\n"
        "names = {name for name in sys.modules if name.partition('.')[0] == 'measurements'}\n"
        "roots = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(*sorted(names)); print(*sorted(roots))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names, roots = (set(line.split()) for line in made.stdout.splitlines())
    assert names == CLOSURE
    assert {root for root in roots if not root.startswith("_")} <= {"cryptography", "measurements"}
