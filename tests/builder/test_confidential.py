"""Reference values of the launches that recipes declare, against another tool and against the calculators."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from sevsnpmeasure import guest, vmm_types
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS

from builder.confidential import sev_snp_references, tdx_references
from builder.errors import RecipeError
from builder.recipe.model import SevSnpPlatform, TdxPlatform
from measurements.events import HashAlgorithm

sys.path.insert(0, str(Path(__file__).parents[1] / "measurements"))

import sev_samples
import tdx_samples


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
    first, second = tdx_references((platform,), builds, uki=uki, disk=None)
    assert first.mrtd == second.mrtd
    assert first.td_hob != second.td_hob
    assert [register.index for register in first.registers] == [0, 1, 2, 3]
    assert all(digest.algorithm is HashAlgorithm.SHA384 for digest in first.mrtd.values())
