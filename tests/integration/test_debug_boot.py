"""A debug boot shows the console, and can never pass for production."""


def test_a_debug_boot_has_a_console_and_never_verifies(boot):
    run = boot("--debug", "--firmware", "ovmf-2025.02")
    assert run.code == 1
    assert run.report["verdict"] == "fail"
    assert "PCR 12" in run.reasons
    assert "console=ttyS0" in run.reasons
    for bank in ("sha256", "sha384"):
        assert run.register(bank, 12)["equal"] is False
        # What the add-on does not touch stays as predicted: the UKI itself, keys, partition table.
        assert all(run.register(bank, index)["equal"] for index in (0, 2, 3, 5, 7, 11))
    assert run.leftovers == ()
