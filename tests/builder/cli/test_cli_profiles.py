"""Platform profiles on the command line: cut, composed, signed, and what they let ``goldsmith verify`` accept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import layer_samples as samples
import pytest
import sev_samples
import tdx_samples
from attester import NONCE, SIGNING_KEY, Machine, prediction, signed
from confidential_samples import snp
from launch_samples import UKI

from builder.cli import run
from measurements import golden, keys, profile
from measurements.image_layer import predict_image
from measurements.profile.signed import sign_profile

RECIPES = Path(__file__).parents[3] / "recipes"
AUTHOR = keys.generate(keys.KeyAlgorithm.ED25519)
GIVEN = ["--golden", "golden.dsse.json", "--key", "release.pub", "--evidence", "evidence.json",
         "--nonce", NONCE.hex(), "--at", "2026-11-22T13:00:00Z"]  # fmt: skip


@pytest.fixture(autouse=True)
def files(tmp_path):
    """A release for the old firmware, evidence of its image on the new one, and the new one's profile."""
    (tmp_path / "golden.dsse.json").write_bytes(signed(samples.released()))
    (tmp_path / "golden.json").write_bytes(golden.to_pretty(samples.released()))
    (tmp_path / "release.pub").write_bytes(SIGNING_KEY.public().pem())
    (tmp_path / "author.pem").write_bytes(AUTHOR.pem())
    (tmp_path / "author.pub").write_bytes(AUTHOR.public().pem())
    (tmp_path / "evidence.json").write_text(json.dumps(samples.rolled().evidence()))
    (tmp_path / "rolled.json").write_bytes(profile.to_pretty(samples.profile()))
    (tmp_path / "rolled.dsse.json").write_bytes(sign_profile(samples.profile(), [AUTHOR]))
    return tmp_path


def told(capfd):
    return json.loads(capfd.readouterr().out)


def test_a_firmware_roll_is_refused_without_its_profile_and_accepted_with_it(capfd):
    assert run(["verify", *GIVEN, "--json"]) == 1
    failed = {check["name"] for check in told(capfd)["checks"] if check["status"] == "failed"}
    assert failed == {"launch shape", "registers", "events"}
    assert run(["verify", *GIVEN, "--profile", "rolled.json", "--json"]) == 0
    found = told(capfd)
    assert found["shape"] == samples.shape().name
    assert "by the verifier's profile ovmf-2026.08" in found["checks"][11]["detail"]


def test_a_profile_key_demands_a_signature(files, capfd):
    demand = ["--profile-key", "author.pub"]
    assert run(["verify", *GIVEN, "--profile", "rolled.dsse.json", *demand]) == 0
    assert run(["verify", *GIVEN, "--profile", "rolled.json", *demand]) == 1
    assert "is not signed" in capfd.readouterr().err
    assert run(["verify", *GIVEN, "--profile", "rolled.dsse.json", "--profile-key", "release.pub"]) == 1
    assert "0 of 1 trusted keys" in capfd.readouterr().err
    (files / "forged.dsse.json").write_bytes(
        (files / "rolled.dsse.json").read_bytes().replace(b'"sig":"', b'"sig":"AAAA')
    )
    assert run(["verify", *GIVEN, "--profile", "forged.dsse.json", *demand]) == 1


def test_a_signature_that_nobody_asked_for_is_not_passed_over(capfd):
    assert run(["verify", *GIVEN, "--profile", "rolled.dsse.json"]) == 2
    assert "who must have signed it" in capfd.readouterr().err
    assert run(["verify", *GIVEN, "--profile-key", "author.pub"]) == 2


def test_a_release_is_no_profile_though_the_same_key_signed_both(files, capfd):
    (files / "both.dsse.json").write_bytes(sign_profile(samples.profile(), [SIGNING_KEY]))
    given = [*GIVEN, "--profile", "golden.dsse.json", "--profile-key", "release.pub"]
    assert run(["verify", *given]) == 3
    assert "predicateType" in capfd.readouterr().err
    swapped = ["verify", "--golden", "both.dsse.json", *GIVEN[2:], "--json"]
    assert run(swapped) == 1
    assert "predicateType" in told(capfd)["checks"][1]["detail"]


def test_a_malformed_profile_is_the_verifiers_own_fault(files, capfd):
    for content in (b"", b"{}", b'{"format": "goldsmith-profile"}', b"\xff\xfe"):
        (files / "bad.json").write_bytes(content)
        assert run(["verify", *GIVEN, "--profile", "bad.json"]) == 3
        assert "bad.json: " in capfd.readouterr().err


def test_cut_and_compose(files, capfd):
    """A profile out of one image's release, composed with another's: equal to what that release says itself."""
    base, gpu = RECIPES / "base/golden.json", RECIPES / "gpu-cc/golden.json"
    assert run(["predict", "profile", str(gpu), "--name", "all", "--out", "all.json", "--json"]) == 0
    found = told(capfd)
    document = golden.parse(base.read_bytes())
    assert set(found["launches"]) > set(document.launch_names)  # gpu-cc is for machines with a GPU too
    assert run(["predict", "compose", "--image", str(base), "--profile", "all.json", "--json"]) == 0
    composed = told(capfd)
    assert composed["image"]["name"] == "base"
    for entry, own in zip(composed["tpm"], document.predictions, strict=True):
        for bank in document.banks:
            assert {
                index: register["alternatives"] for index, register in entry["registers"][bank.value].items()
            } == {
                str(register.index): [value.hex() for value in register.values(bank)]
                for register in own.registers
            }
    assert [each["launch_digest"] for each in composed["sev_snp"]] == [
        each.launch_digest.hex() for each in document.sev_snp
    ]
    domains = [entry for entry in composed["tdx"] if entry["name"] in document.launch_names]
    for entry, domain in zip(domains, document.tdx, strict=True):
        assert entry["mrtd"] == {order.value: digest.hex() for order, digest in domain.mrtd.items()}
        assert set(entry["registers"]) == {"rtmr0", "rtmr1", "rtmr2", "rtmr3"}
    assert run(["predict", "compose", "--image", str(base), "--profile", "all.json"]) == 0
    assert "launch digest" in capfd.readouterr().out


def test_a_profile_of_some_launches(capfd):
    gpu = RECIPES / "gpu-cc/golden.json"
    name = golden.parse(gpu.read_bytes()).launch_names[0]
    assert run(["predict", "profile", str(gpu), "--launch", name]) == 0
    made = profile.parse(capfd.readouterr().out.encode())
    assert (made.name, made.names) == ("gpu-cc", (name,))
    assert run(["predict", "profile", str(gpu), "--launch", "none"]) == 2
    assert run(["predict", "profile", str(gpu), "--name", "a b"]) == 2


def test_keys_are_asked_for_what_is_composed(capfd):
    given = ["predict", "compose", "--profile", "rolled.json", "--key", "release.pub", "--image"]
    assert run([*given, "golden.dsse.json"]) == 0
    assert run([*given, "golden.json"]) == 2  # an image layer that nobody signed
    assert run([*given[:-2], "author.pub", "--image", "golden.dsse.json"]) == 1


def test_documents_without_an_image_layer_say_so(files, capfd):
    (files / "old.json").write_bytes(golden.to_pretty(replace(samples.released(), image_layer=None)))
    assert run(["predict", "profile", "old.json"]) == 3
    assert run(["predict", "compose", "--image", "old.json", "--profile", "rolled.json"]) == 3
    assert capfd.readouterr().err.count("no image layer") == 2


def test_profiles_are_signed_like_golden_documents(files, capfd):
    (files / "fresh.json").write_bytes((files / "rolled.json").read_bytes())
    assert run(["sign", "fresh.json", "--key", "author.pem", "--json"]) == 0
    assert told(capfd)["profile"] == {"name": "ovmf-2026.08", "launches": [samples.shape().name]}
    assert (files / "fresh.dsse.json").read_bytes() == (files / "rolled.dsse.json").read_bytes()
    (files / "other.pem").write_bytes(keys.generate(keys.KeyAlgorithm.ECDSA_P256).pem())
    assert run(["sign", "fresh.dsse.json", "--key", "other.pem"]) == 0
    assert run(["verify", *GIVEN, "--profile", "fresh.dsse.json", "--profile-key", "author.pub"]) == 0


def test_a_profile_of_other_firmware_for_sev_snp(files, capfd):
    (files / "ovmf-amdsev.fd").write_bytes(sev_samples.firmware())
    (files / "uki.efi").write_bytes(UKI)
    given = ["--firmware", "ovmf-amdsev.fd", "--vcpus", "4", "--vcpu-type", "EPYC-Milan"]
    assert run(["predict", "snp", *given, "--uki", "uki.efi", "--as-profile", "new"]) == 0
    made = profile.parse(capfd.readouterr().out.encode())
    layer = samples.layer_of(Machine())  # of b"uki"
    assert made.names == ("qemu-snp/ovmf-amdsev/direct/EPYC-Milan/4-vcpus",)
    assert profile.compose(layer, made).sev_snp[0].launch_digest == snp(uki=b"uki").launch_digest
    assert run(["predict", "snp", *given, "--as-profile", "new"]) == 0  # boots from disk, binds no image
    assert profile.parse(capfd.readouterr().out.encode()).sev_snp[0].hashes is None
    for options in (["--as-profile", "a b"], ["--as-profile", "x", "--mode", "seves"]):
        assert run(["predict", "snp", *given, *options]) == 2


def test_a_profile_of_other_firmware_for_tdx(files, capfd):
    (files / "ovmf.fd").write_bytes(tdx_samples.firmware())
    (files / "uki.efi").write_bytes(UKI)
    given = ["--firmware", "ovmf.fd", "--as-profile", "new"]
    assert run(["predict", "tdx", *given, "--kernel", "uki.efi"]) == 0
    out, err = capfd.readouterr()
    made = profile.parse(out.encode())
    assert "open in this profile: qemu-tdx/ovmf/direct/2-vcpus/2048-mib: RTMR0" in err
    filled = profile.compose(predict_image(UKI, disk=None), made).tdx[0]
    assert [len(register.alternatives) > 0 for register in filled.registers] == [False, True, True, False]
    assert run(["predict", "tdx", *given]) == 2


def test_diff_says_that_a_firmware_roll_left_the_image_alone(files, capfd):
    rolled = replace(samples.launch(samples.rolled()), shape=prediction().shape)
    (files / "new.json").write_bytes(golden.to_pretty(replace(samples.released(), predictions=(rolled,))))
    assert run(["diff", "golden.json", "new.json"]) == 0
    assert "image layer: equal; whatever moved, the platform moved it" in capfd.readouterr().out
    assert run(["diff", "golden.json", "new.json", "--json"]) == 0
    found = told(capfd)
    assert found["image_layer"] == {"equal": True, "moved": []}
    moved = {register for move in found["moved"] for register in move["registers"]}
    assert moved and moved <= {f"PCR {index}" for index in range(8)}


def test_diff_says_what_of_the_image_moved(files, capfd):
    other = samples.with_other_image(Machine())
    changed = replace(
        samples.released(), predictions=(prediction(other),), image_layer=samples.layer_of(other)
    )
    (files / "new.json").write_bytes(golden.to_pretty(changed))
    assert run(["diff", "golden.json", "new.json", "--json"]) == 0
    assert told(capfd)["image_layer"]["moved"] == [
        "application",
        "kernel",
        "partition-table",
        "PCR 9",
        "PCR 11",
    ]
    assert run(["diff", "golden.json", "new.json"]) == 0
    assert "image layer: differs in application, kernel" in capfd.readouterr().out
