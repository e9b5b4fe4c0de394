"""Real boots: what the TPM holds is what was predicted, for both firmware builds, disk and -kernel."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest

from builder.recipe import find_recipe, load_recipe
from builder.toolbox import firmware

pytestmark = pytest.mark.integration

LAUNCHES = {
    "2025.02 disk, network": ("--firmware", "ovmf-2025.02"),
    "2026.08 disk, virtio-serial": ("--firmware", "ovmf-2026.08", "--serial"),
    "2025.02 direct": ("--firmware", "ovmf-2025.02", "--direct"),
    "2026.08 direct": ("--firmware", "ovmf-2026.08", "--direct"),
}
BANKS = {"sha256": 64, "sha384": 96}
#: PCR 10 is IMA's, in the order in which files happen to be opened.
PINNED = [index for index in range(16) if index != 10]

launch = pytest.mark.parametrize("options", LAUNCHES.values(), ids=LAUNCHES)


@launch
def test_every_register_is_as_predicted(boot, options):
    run = boot(*options)
    assert run.report["verdict"] == "pass", run.reasons
    assert run.code == 0
    assert run.report["published"], "the release's own document was to be used"
    quoted = {
        quote["bank"]: quote["pcrs"] for quote in json.loads(run.evidence.read_bytes())["quotes"]
    }  # what the TPM signed; the report must be about these values
    for bank, length in BANKS.items():
        for index in range(16):
            register = run.register(bank, index)
            assert register["observed"] == quoted[bank][str(index)]
            assert len(register["observed"]) == length
            if index in PINNED:
                predicted = register["predicted"]
                assert register["observed"] in (predicted if isinstance(predicted, list) else [predicted])
                assert register["equal"] and register["pinned"], (bank, index)
            else:
                assert register["predicted"] is None
                assert register["reason"]


@launch
def test_nothing_outlives_a_boot(boot, options):
    assert boot(*options).leftovers == ()


def test_values_of_used_registers_are_not_the_initial_ones(genuine):
    """A prediction of "nothing happens", met by a TPM to which nothing happened, would be equal too."""
    for index in (0, 1, 2, 3, 4, 5, 6, 7, 9, 11):
        assert int(genuine.register("sha256", index)["observed"], 16)


def test_report_keeps_the_contract(genuine, store, lock):
    """docs/cli.md, `goldsmith boot`."""
    report = genuine.report
    assert {"verdict", "seconds", "firmware", "registers"} <= set(report)
    assert isinstance(report["seconds"], float) and 0 < report["seconds"] < 600
    recipe = load_recipe(find_recipe("base", base=Path(__file__).parent))
    builds = {build.name: build for build in firmware(recipe.firmware, lock, store)}
    code = builds["ovmf-2025.02"].code.read_bytes()
    assert report["firmware"] == hashlib.sha256(code).hexdigest()
    for bank in BANKS:
        assert list(report["registers"][bank]) == [str(index) for index in range(16)]
        for register in report["registers"][bank].values():
            assert {"predicted", "observed", "equal", "reason"} <= set(register)
            assert isinstance(register["equal"], bool)
            assert register["reason"] is None or isinstance(register["reason"], str)


@pytest.mark.parametrize("transport", ["network", "virtio-serial"])
def test_saved_evidence_verifies_later_and_elsewhere(boot, goldsmith, release, transport):
    options = LAUNCHES["2025.02 disk, network" if transport == "network" else "2026.08 disk, virtio-serial"]
    run = boot(*options)
    done = goldsmith(
        "verify", "--golden", release / "golden.dsse.json", "--key", release / "release.pub",
        "--evidence", run.evidence, "--nonce", run.nonce, "--ak", run.attestation_key, "--json", timeout=60,
    )  # fmt: skip
    verdict = json.loads(done.stdout)
    assert (done.code, verdict["verdict"]) == (0, "pass"), done.stdout
    assert verdict["shape"] == run.report["shape"]
    assert {check["status"] for check in verdict["checks"]} == {"ok"}


def test_evidence_carries_the_log_that_explains_it(genuine):
    evidence = json.loads(genuine.evidence.read_bytes())
    assert b"Spec ID Event03" in base64.b64decode(evidence["event_log"])
    # systemd's own record of the four phases (systemd-pcrphase.service(8)).
    words = base64.b64decode(evidence["userspace_log"])
    assert [words.find(word) >= 0 for word in (b"enter-initrd", b"leave-initrd", b"sysinit", b"ready")] == [
        True
    ] * 4


def test_machine_of_another_shape_is_predicted_on_the_fly(boot):
    """One processor and 3 GiB: above 2.75 GiB q35 splits its memory, and ACPI and SMBIOS say so (PCR 1)."""
    run = boot("--firmware", "ovmf-2026.08", "--memory", "3072", "--vcpus", "1")
    assert run.report["verdict"] == "pass", run.reasons
    assert not run.report["published"]
    usual = boot(*LAUNCHES["2026.08 disk, virtio-serial"])
    for bank in BANKS:
        assert all(run.register(bank, index)["equal"] for index in PINNED)
        assert run.register(bank, 1)["observed"] != usual.register(bank, 1)["observed"]
        assert run.register(bank, 11)["observed"] == usual.register(bank, 11)["observed"]
    assert run.leftovers == ()
