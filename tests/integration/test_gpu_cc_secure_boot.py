"""recipes/gpu-cc with signed modules: the bytes do not depend on who has the key, and the kernel loads these alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from module_trial import (
    CHANGED,
    DEBIAN,
    FOREIGN,
    KINDS,
    MISPLACED,
    RELEASE,
    SECOND,
    UNSIGNED,
    Trial,
    Workshop,
    trial,
)
from running import ROOT, Done, Goldsmith

from builder.image.secureboot import keyset
from builder.image.secureboot.authenticode import sign_pe
from builder.image.secureboot.modules import sign_module
from builder.image.secureboot.signer import load_signer
from builder.launches import enrolled_firmware, launches
from builder.lockfile import read_lock
from builder.release import manifest as manifests
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from measurements import golden
from measurements.events import DEFAULT_BANKS
from measurements.prediction import BootPath

pytestmark = pytest.mark.integration

#: What a third party cannot make again: signatures of the release key, and that key.
_SIGNED_ANEW = {"golden.dsse.json", "release.pub"}
_NAMES = ("nvidia", "nvidia_uvm")
#: What the kernel takes: the driver finds no GPU, the second module no driver, Debian's module is there already.
_ACCEPTED = {RELEASE: "ENODEV", SECOND: "ENOENT", DEBIAN: "EEXIST"}
_REFUSED = dict.fromkeys((UNSIGNED, FOREIGN, MISPLACED, CHANGED), "EKEYREJECTED")


def build(goldsmith: Goldsmith, out: Path, *options: str | Path, recipe: str | Path = "gpu-cc") -> Done:
    return goldsmith("build", recipe, "--offline", "--out", out, *options, timeout=600)


def ok(done: Done) -> None:
    assert done.code == 0, done.stderr


@pytest.fixture(scope="module")
def signed(
    goldsmith: Goldsmith, store: Store, secure_boot_keys: Path, signing_key: Path, tmp_path_factory
) -> Path:
    """The image with its modules signed by the db key."""
    ok(goldsmith("fetch", "gpu-cc", timeout=900))
    out = tmp_path_factory.mktemp("gpu") / "signed"
    ok(build(goldsmith, out, "--key", signing_key, "--module-keys", secure_boot_keys))
    return out


@pytest.fixture(scope="module")
def sealed(goldsmith: Goldsmith, signed: Path, secure_boot_keys: Path, signing_key: Path) -> Path:
    """The same, signed for Secure Boot with the same keys."""
    out = signed.with_name("sealed")
    ok(goldsmith("seal", signed, "--keys", secure_boot_keys, "--key", signing_key, "--out", out, timeout=120))
    return out


@pytest.fixture(scope="module")
def others(goldsmith: Goldsmith, tmp_path_factory) -> Path:
    """A key set that has nothing to do with the release."""
    folder = tmp_path_factory.mktemp("others") / "keys"
    ok(goldsmith("keys", "make", folder, "--name", "Strangers", timeout=60))
    return folder


@pytest.fixture(scope="module")
def boot(sealed: Path, secure_boot_keys: Path, tmp_path_factory) -> Callable[..., Trial]:
    """Boot the sealed disk and load modules of every kind, with Secure Boot on or off."""
    manifest, lock = manifests.load(sealed), read_lock(sealed / "lock.json", recipe="gpu-cc")
    tools, builds = unpack_toolbox(lock, Store.default()), firmware(manifest.firmware, lock, Store.default())
    signer = load_signer(*((secure_boot_keys / f"db.{suffix}").read_bytes() for suffix in ("key", "pem")))
    stranger = keyset.make_key_set("Strangers", size=3072, valid_from=date(2026, 11, 22), years=1).image_key
    standin = Workshop(ROOT / "recipes/gpu-cc", tmp_path_factory.mktemp("workshop")).standin()
    _, foreign = sign_module((sealed / "nvidia.ko").read_bytes(), stranger)

    def run(*, secure_boot: bool) -> Trial:
        enrolled = enrolled_firmware(manifest.platforms, builds, sealed) if secure_boot else builds
        known = launches(manifest.platforms, enrolled, secure_boot=secure_boot)
        return trial(
            sealed,
            next(launch for launch in known if launch.boot is BootPath.DISK),
            tools,
            foreign,
            # Where nothing is verified yet, code that somebody changed would run.
            early=[kind for kind in KINDS if secure_boot or kind != CHANGED],
            sign=(lambda image: sign_pe(image, signer)[0]) if secure_boot else None,
            standins=(standin, sign_module(standin, signer)[0]) if secure_boot else (),
        )

    return run


@pytest.fixture(scope="module")
def verified(boot: Callable[..., Trial]) -> Trial:
    return boot(secure_boot=True)


@pytest.fixture(scope="module")
def unverified(boot: Callable[..., Trial]) -> Trial:
    return boot(secure_boot=False)


def document(release: Path) -> golden.GoldenDocument:
    return golden.parse((release / "golden.json").read_bytes())


def digests(release: golden.GoldenDocument) -> dict[str, str]:
    return {output.name: output.sha256 for output in release.outputs}


# Bytes


def test_what_the_committed_document_says_of_the_modules_stays(signed: Path):
    """The committed values are about the unsigned build; what signatures cannot move is the same in both."""
    committed = golden.parse((ROOT / "recipes/gpu-cc/golden.json").read_bytes())
    found = document(signed)
    assert (found.image, found.inputs, found.validity) == (
        committed.image,
        committed.inputs,
        committed.validity,
    )
    before, after = digests(committed), digests(found)
    for name in ("nvidia.ko", "nvidia_uvm.ko", "lock.json"):
        assert after[name] == before[name]
    assert after.keys() - before.keys() == {"nvidia.ko.p7s", "nvidia_uvm.ko.p7s", "modules.pem"}
    for old, new in zip(committed.predictions, found.predictions, strict=True):
        # The root hash is in the UKI (4), the partitions' names (5) and the command line (9, 11).
        moved = {each.index for each in old.registers if each != new.register(each.index)}
        assert {4, 9, 11} <= moved <= {4, 5, 9, 11}, old.shape.name


def test_a_signed_build_is_held_against_the_committed_values(
    goldsmith: Goldsmith, signed: Path, tmp_path: Path
):
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    path = tmp_path / "recipes/gpu-cc/golden.json"
    text = path.read_text()
    wanted = digests(golden.parse(text.encode()))["nvidia_uvm.ko"]
    path.write_text(text.replace(wanted, "0" * 64))
    out = tmp_path / "out"
    done = build(goldsmith, out, "--module-signatures", signed, recipe=path.parent)
    assert (done.code, "output nvidia_uvm.ko" in done.stderr) == (1, True), done.stderr
    assert not out.exists()


def test_a_third_party_without_the_key_gets_the_same_bytes(
    goldsmith: Goldsmith, signed: Path, tmp_path: Path
):
    ok(build(goldsmith, tmp_path / "out", "--module-signatures", signed))
    assert_equal(tmp_path / "out", signed)


def test_signing_twice_gives_the_same_bytes(
    goldsmith: Goldsmith, signed: Path, secure_boot_keys: Path, tmp_path: Path
):
    """Beside the modules alone, as a host does that signs and does not build."""
    modules = [signed / f"{name}.ko" for name in _NAMES]
    ok(goldsmith("keys", "sign-modules", secure_boot_keys, *modules, "--out", tmp_path, timeout=60))
    for name in ("nvidia.ko.p7s", "nvidia_uvm.ko.p7s", "modules.pem"):
        assert (tmp_path / name).read_bytes() == (signed / name).read_bytes()
    ok(build(goldsmith, tmp_path / "out", "--module-keys", secure_boot_keys))
    assert_equal(tmp_path / "out", signed)


def assert_equal(folder: Path, signed: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in signed.iterdir()}
    for name in sorted(names - _SIGNED_ANEW):
        assert (folder / name).read_bytes() == (signed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder, others: (folder / "nvidia_uvm.ko.p7s").unlink(), "no signature of nvidia_uvm"),
        (lambda folder, others: shutil.copy(folder / "nvidia.ko.p7s", folder / "e1000.ko.p7s"), "e1000.ko.p7s"),
        (lambda folder, others: shutil.copy(folder / "nvidia.ko.p7s", folder / "nvidia_uvm.ko.p7s"),
         "about other bytes"),
        (lambda folder, others: shutil.copy(others / "db.pem", folder / "modules.pem"), "names another signer"),
        (lambda folder, others: (folder / "nvidia.ko.p7s").write_bytes(bytes(531)), "names another signer"),
    ],
    ids=["missing", "left over", "of another module", "by another key", "no signature"],
)  # fmt: skip
def test_signatures_that_do_not_fit_are_refused(
    goldsmith: Goldsmith, signed: Path, others: Path, tmp_path: Path, change, message: str
):
    folder, out = tmp_path / "signatures", tmp_path / "out"
    folder.mkdir()
    for name in ("nvidia.ko.p7s", "nvidia_uvm.ko.p7s", "modules.pem"):
        shutil.copyfile(signed / name, folder / name)
    change(folder, others)
    done = build(goldsmith, out, "--module-signatures", folder)
    assert (done.code, message in done.stderr) == (3, True), done.stderr
    assert not out.exists()


def test_the_audit_verifies_the_signatures(goldsmith: Goldsmith, signed: Path, others: Path):
    report = json.loads((signed / "audit.json").read_bytes())
    (rule,) = [rule for rule in report["rules"] if rule["id"] == "GS-MODULE-002"]
    assert rule["outcome"] == "pass" and "GS-MODULE-002" not in report["declared"]["waivers"]
    done = goldsmith("audit", signed, "--module-certificate", signed / "modules.pem", timeout=60)
    assert (done.code, done.stderr.count("warning")) == (0, 0), done.stdout + done.stderr
    done = goldsmith("audit", signed, "--module-certificate", others / "db.pem", "--json", timeout=60)
    told = json.loads(done.stdout)
    assert (done.code, told["summary"]["fail"]) == (1, 1)
    (rule,) = [rule for rule in told["rules"] if rule["outcome"] == "fail"]
    assert rule["id"] == "GS-MODULE-002"
    assert sorted(finding["place"].rpartition("/")[2] for finding in rule["findings"]) == [
        "nvidia.ko", "nvidia_uvm.ko",
    ]  # fmt: skip


def test_the_bill_of_materials_knows_module_and_signature(goldsmith: Goldsmith, signed: Path):
    done = goldsmith("why", "/usr/lib/modules/*/updates/*.ko", "--release", signed, "--json", timeout=60)
    assert done.code == 0, done.stderr
    listed = digests(document(signed))
    for place in json.loads(done.stdout)["paths"]:
        made = place["signature"]
        assert listed[made["unsigned"]] == made["unsigned_sha256"]
        assert listed[made["file"]] == made["sha256"] and made["file"] == f"{made['unsigned']}.p7s"
        assert made["signer"] == "CN=Integration test Secure Boot db"
        assert made["sha256"] in (signed / "sbom.spdx.json").read_text()


# Sealing


def test_sealing_needs_signatures_that_the_kernel_will_take(
    goldsmith: Goldsmith, signed: Path, others: Path, secure_boot_keys: Path, tmp_path: Path
):
    out = tmp_path / "out"
    done = goldsmith("seal", signed, "--keys", others, "--out", out, timeout=60)
    assert (done.code, "db holds no such certificate" in done.stderr) == (3, True), done.stderr
    ok(build(goldsmith, tmp_path / "unsigned"))
    done = goldsmith("seal", tmp_path / "unsigned", "--keys", secure_boot_keys, "--out", out, timeout=60)
    assert (done.code, "modules that nobody signed" in done.stderr) == (2, True), done.stderr
    assert not out.exists()


def test_a_module_key_of_its_own_is_enrolled_beside(
    goldsmith: Goldsmith, signed: Path, secure_boot_keys: Path, tmp_path: Path
):
    """Keys that start images, of others than those that signed the modules."""
    keys = tmp_path / "keys"
    ok(goldsmith("keys", "make", keys, "--allow", secure_boot_keys / "db.pem", timeout=60))
    ok(goldsmith("seal", signed, "--keys", keys, "--out", tmp_path / "out", timeout=120))
    assert (tmp_path / "out/db-2.pem").read_bytes() == (signed / "modules.pem").read_bytes()


# Boots


def test_it_boots_as_predicted_with_secure_boot(goldsmith: Goldsmith, sealed: Path, tmp_path: Path):
    run = goldsmith.boot(sealed, "--secure-boot", "--firmware", "ovmf-2026.08-secboot", folder=tmp_path)
    assert run.report["verdict"] == "pass", run.reasons
    assert run.report["shape"].endswith("/secure-boot")
    for bank in DEFAULT_BANKS:
        for index in range(16):
            assert run.register(bank, index)["equal"] is (index != 10), (bank, index)
        assert int(run.register(bank, 7)["observed"], 16)


def test_it_boots_as_predicted_without(goldsmith: Goldsmith, sealed: Path, tmp_path: Path):
    run = goldsmith.boot(sealed, "--firmware", "ovmf-2025.02", folder=tmp_path)
    assert run.report["verdict"] == "pass", run.reasons
    assert not run.report["shape"].endswith("/secure-boot")


def test_under_secure_boot_the_kernel_takes_signed_modules_alone(verified: Trial):
    """From its first moment, and still under full lockdown; afterwards it takes none."""
    assert re.search(r"keyring +\.platform: 1$", verified.keys, re.MULTILINE)
    assert "Integration test Secure Boot db" in verified.keys
    assert "NVRM: No NVIDIA GPU found" in verified.boot_log, "the image's own loading"
    assert "Loading of" not in verified.boot_log
    early, late = verified.early, verified.late
    assert (early.lockdown, early.enforced) == ("integrity", "Y")
    assert (late.lockdown, late.enforced, late.latched) == ("confidentiality", "Y", "0")
    for state in (early, late):
        assert state.answers == _ACCEPTED | _REFUSED
        assert "Loading of unsigned module is rejected" in state.log
        assert "Loading of module with unavailable key is rejected" in state.log


def test_the_driver_is_loaded_and_stays_under_full_lockdown(verified: Trial):
    """Where it finds a device; O is a module from outside of the tree, and E would be an unsigned one (proc(5))."""
    assert verified.with_device == ("EKEYREJECTED", "0", "0", "0")
    modules = {line.split()[0]: line.split() for line in verified.modules.splitlines()}
    for name in _NAMES:
        assert modules[name][4] == "Live" and modules[name][-1] == "(O)"


def test_without_secure_boot_lockdown_stops_all_but_debians(unverified: Trial):
    """Before it dm-verity alone decides; after it, without db, the release's key counts for nothing."""
    assert re.search(r"keyring +\.platform: empty$", unverified.keys, re.MULTILINE)
    assert "NVRM: No NVIDIA GPU found" in unverified.boot_log, "the image's own loading"
    early, late = unverified.early, unverified.late
    assert (early.lockdown, early.enforced) == ("none", "N")
    assert early.answers == _ACCEPTED | {UNSIGNED: "ENODEV", FOREIGN: "ENODEV", MISPLACED: "ENODEV"}
    assert (late.lockdown, late.enforced, late.latched) == ("confidentiality", "Y", "0")
    assert late.answers == dict.fromkeys(KINDS, "EKEYREJECTED") | {DEBIAN: "EEXIST"}
    assert "Loading of module with unavailable key is rejected" in late.log


@pytest.mark.parametrize("mode", ["verified", "unverified"])
def test_once_it_is_up_no_module_is_loaded_at_all(mode: str, request: pytest.FixtureRequest):
    state = request.getfixturevalue(mode).up
    assert (state.lockdown, state.enforced, state.latched) == ("confidentiality", "Y", "1")
    assert state.answers == dict.fromkeys(KINDS, "EPERM")


def test_taint_tells_the_modes_apart(verified: Trial, unverified: Trial):
    """Documentation/admin-guide/tainted-kernels.rst: 4096, a module from outside of the tree; 8192, an unsigned one."""
    assert verified.taint == 4096
    assert unverified.taint == 4096 + 8192
