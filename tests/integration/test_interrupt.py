"""Ctrl-C and SIGTERM in the middle of the long verbs: code 130, and nothing is left."""

from __future__ import annotations

import signal
import time

import pytest
from running import await_process, interrupt, leftovers, link_or_copy, private_temporary, processes

pytestmark = pytest.mark.integration

signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda item: item.name)


@signals
def test_interrupted_boot_takes_its_machine_down(goldsmith, release, number):
    with private_temporary() as temporary:
        process = goldsmith.start("boot", release, "--json", env={"TMPDIR": str(temporary)})
        await_process(str(temporary), "tpm-crb", timeout=120)
        time.sleep(1)  # well inside the firmware's run; any moment would do
        done = interrupt(process, number)
        assert leftovers(temporary) == ()
    assert done.code == 130, done.stderr
    assert "interrupted" in done.stderr
    assert done.stdout == ""


@signals
@pytest.mark.parametrize("phase", ["toolbox", "compose", "initrd"])
def test_interrupted_build_leaves_the_old_release(goldsmith, store, tmp_path, number, phase):
    """The signal comes right after a phase, so in the middle of the next; the store has derived nothing yet."""
    root = tmp_path / "store"
    (root / "sha256").mkdir(parents=True)
    for path in (store.root / "sha256").iterdir():
        link_or_copy(path, root / "sha256" / path.name)
    out = tmp_path / "dist" / "base"
    out.mkdir(parents=True)
    (out / "manifest.json").write_text("an older release")
    with private_temporary() as temporary:
        environment = {"TMPDIR": str(temporary), "GOLDSMITH_STORE": str(root)}
        process = goldsmith.start("build", "base", "--offline", "--out", out, env=environment)
        for line in process.stderr:
            if line.startswith(f"{phase}:"):
                break
        else:
            pytest.fail(f"the build ended before its phase {phase}")
        done = interrupt(process, number)
        assert leftovers(temporary) == ()
    assert done.code == 130, done.stderr
    assert "interrupted" in done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["base"]
    assert (out / "manifest.json").read_text() == "an older release"
    assert processes(str(tmp_path)) == []
    # What was derived is whole or absent, so the next build may use it.
    assert list((root / "temporary").iterdir()) == []
