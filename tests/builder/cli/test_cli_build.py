"""``goldsmith build``: what makes no sense is refused before anything is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.cli import run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--module-keys", "keys", "--module-signatures", "release"], "either --module-keys KEYS or"),
        (["--module-certificate", "modules.pem"], "says what --module-signatures FOLDER must verify with"),
        (["--module-keys", "keys", "--module-certificate", "modules.pem"], "says what --module-signatures"),
    ],
)
def test_module_options_that_contradict_each_other(capfd, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert run(["build", "base", *arguments]) == 2
    assert message in capfd.readouterr().err
    assert list(Path().iterdir()) == []
