"""Firmware that nobody knows is called so, and never passes in silence."""

from __future__ import annotations

import hashlib

import pytest

from builder.release import manifest as manifests
from builder.toolbox import firmware

pytestmark = pytest.mark.integration


def test_patched_firmware_is_called_unpredictable_and_never_passes(goldsmith, release, lock, store, tmp_path):
    """One bit in the free space of a firmware volume: it boots, and measures what the genuine one does."""
    builds = firmware(manifests.load(release).firmware, lock, store)
    code = bytearray(builds[0].code.read_bytes())
    code[code.rindex(b"\xff" * 64) + 32] ^= 1
    (tmp_path / "OVMF_CODE_PATCHED.fd").write_bytes(code)
    run = goldsmith.boot(release, "--firmware", tmp_path / "OVMF_CODE_PATCHED.fd", folder=tmp_path)
    assert (run.code, run.report["verdict"]) == (1, "fail")
    assert run.report["firmware"] == hashlib.sha256(code).hexdigest()
    assert not run.report["published"]
    for index in (0, 1, 7):
        assert f"PCR {index}: not predictable: calibrate" in run.reasons
        assert run.register("sha256", index)["predicted"] is None
        assert not run.register("sha256", index)["equal"]
    # What the image decides was still compared.
    assert all(run.register("sha384", index)["equal"] for index in (4, 9, 11, 12))
