"""Reference values of the launches that recipes declare, against another tool and against the calculators."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sevsnpmeasure import guest, vmm_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS

from builder.boot.qtest import FwCfgTables
from builder.confidential import sev_snp_references, tdx_references
from builder.errors import RecipeError
from builder.recipe.platforms import SevSnpPlatform, TdxPlatform
from measurements.events import Digest, HashAlgorithm, Stability

sys.path.insert(0, str(Path(__file__).parents[1] / "measurements"))

import launch_samples
import sev_samples
import tdx_samples
from firmware_files import ovmf


@pytest.fixture
def builds(tmp_path):
    snp, tdx = tmp_path / "snp.fd", tmp_path / "tdx.fd"
    snp.write_bytes(sev_samples.firmware())
    tdx.write_bytes(tdx_samples.firmware())
    return {"snp": snp, "tdx": tdx}


def snp_platform(**settings):
    given = {"name": "qemu-snp", "firmware": ["snp"], "cpu": ["EPYC-Milan"], "vcpus": [1]}
    return SevSnpPlatform.model_validate(given | settings, strict=False)


def tdx_platform(**settings):
    given = {"name": "qemu-tdx", "firmware": ["tdx"], "boot": ["direct"], "memory_mib": [2048], "vcpus": [2]}
    return TdxPlatform.model_validate(given | settings, strict=False)


def no_tables(machine, boot, pciexbar):
    return None


def test_every_combination_equals_sev_snp_measure(builds, tmp_path):
    uki = tmp_path / "uki.efi"
    uki.write_bytes(b"MZ and the rest")
    platform = snp_platform(cpu=["EPYC-Milan", "EPYC-Genoa"], vcpus=[1, 2, 8], boot=["direct", "disk"])
    found = list(sev_snp_references((platform,), builds, uki=uki.read_bytes()))
    assert len({reference.name for reference in found}) == len(found) == 12
    for reference in found:
        kernel = str(uki) if reference.boot == "direct" else ""
        expected = guest.calc_launch_digest(
            SevMode.SEV_SNP, reference.vcpus, CPU_SIGS[reference.cpu], str(builds["snp"]), kernel, "", "", 0x1,
            vmm_type=vmm_types.VMMType.QEMU,
        )  # fmt: skip
        assert reference.launch_digest.value == expected, reference.name


def test_a_model_that_is_not_known_is_named(builds):
    with pytest.raises(RecipeError, match="did you mean 'EPYC-Milan'"):
        list(sev_snp_references((snp_platform(cpu=["EPIC-Milan"]),), builds, uki=b""))


def test_trust_domains_differ_in_memory(builds):
    platform = tdx_platform(memory_mib=[2048, 4096])
    uki = (Path(__file__).parents[1] / "vectors/secureboot/small.signed.efi").read_bytes()
    first, second = tdx_references((platform,), builds, uki=uki, disk=None, tables=no_tables)
    assert first.mrtd == second.mrtd
    assert first.td_hob != second.td_hob
    assert [register.index for register in first.registers] == [0, 1, 2, 3]
    assert all(digest.algorithm is HashAlgorithm.SHA384 for digest in first.mrtd.values())


def test_tables_are_asked_for_each_machine_and_pin_rtmr0(tmp_path):
    """What QEMU says reaches the events; without a machine type nobody is asked."""
    code = tmp_path / "ovmf.fd"
    code.write_bytes(ovmf("2025.02"))
    found = FwCfgTables(acpi=launch_samples.acpi("disk"), smbios=b"", bootorder=None)
    asked = []

    def tables(machine, boot, pciexbar):
        asked.append((machine.type, machine.memory_mib, machine.vcpus, str(boot), pciexbar))
        return found

    uki = launch_samples.UKI
    given = {"firmware": ["fw"], "memory_mib": [2048, 4096], "boot": ["disk", "direct"]}
    platform = tdx_platform(machine="pc-q35-11.1", **given)
    references = list(
        tdx_references((platform,), {"fw": code}, uki=uki, disk=launch_samples.disk(), tables=tables)
    )
    assert asked == [
        ("pc-q35-11.1", memory, 2, boot, 0xE0000000) for boot in ("disk", "direct") for memory in (2048, 4096)
    ]
    for reference in references:
        rtmr0 = reference.registers[0]
        assert rtmr0.stability is Stability.VM_SHAPE
        digests = [event.digest(HashAlgorithm.SHA384) for event in rtmr0.alternatives[0].events]
        assert all(Digest.of(HashAlgorithm.SHA384, blob) in digests for _, blob in found.acpi.measured())
    assert (
        len({reference.registers[0].alternatives[0].value(HashAlgorithm.SHA384) for reference in references})
        == 4
    )

    def never(machine, boot, pciexbar):
        raise AssertionError("asked")

    (lone,) = tdx_references((tdx_platform(firmware=["fw"]),), {"fw": code}, uki=uki, disk=None, tables=never)
    assert "ACPI tables were not supplied" in lone.registers[0].reason
