"""``goldsmith diff``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from attester import Machine, document, other_shape, prediction

from builder.cli import run
from measurements import golden
from measurements.envelope import sign_document
from measurements.events import EventType
from measurements.keys import KeyAlgorithm, generate


@pytest.fixture(autouse=True)
def files():
    """Two documents whose command lines differ, in a disk shape; a third that is the first."""
    machine = Machine()
    machine.change(machine.find(11, EventType.IPL, 5), b"another command line")
    Path("old.json").write_bytes(golden.to_pretty(document(prediction())))
    Path("new.json").write_bytes(golden.to_pretty(document(prediction(machine))))
    Path("same.json").write_bytes(golden.to_canonical(document(prediction())))


def test_equal_documents(capfd):
    assert run(["diff", "old.json", "same.json", "--exit-code"]) == 0
    assert capfd.readouterr().out == "equal\n"


def test_the_guilty_input_is_named_with_what_it_moved(capfd):
    assert run(["diff", "old.json", "new.json", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["equal"] is False
    assert said["moved"] == [
        {"cause": "uki .cmdline", "registers": {"PCR 11": ["qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib"]}}
    ]
    (difference,) = said["differences"]
    assert (difference["register"], difference["shape"]) == (
        "PCR 11",
        "qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib",
    )


def test_the_table_says_in_which_shapes(capfd):
    both = (prediction(), other_shape())
    Path("two.json").write_bytes(golden.to_pretty(document(*both)))
    machine = Machine()
    machine.change(machine.find(11, EventType.IPL, 5), b"another command line")
    Path("moved.json").write_bytes(golden.to_pretty(document(prediction(machine), other_shape())))
    assert run(["diff", "old.json", "new.json", "--exit-code"]) == 1
    assert [line.split()[:5] for line in capfd.readouterr().out.splitlines()[3:4]] == [
        ["uki", ".cmdline", "PCR", "11", "all"]
    ]
    assert run(["diff", "two.json", "moved.json"]) == 0
    assert "qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib" in capfd.readouterr().out


def test_inputs_and_outputs_are_listed(capfd):
    changed = replace(document(prediction()), inputs=golden.Inputs(recipe="99" * 32, lock="22" * 32))
    Path("inputs.json").write_bytes(golden.to_pretty(changed))
    assert run(["diff", "old.json", "inputs.json"]) == 0
    assert "inputs: recipe sha256" in capfd.readouterr().out


def test_signatures_count_where_a_key_is_given(capfd):
    key, stranger = generate(KeyAlgorithm.ED25519), generate(KeyAlgorithm.ED25519)
    Path("ours.pem").write_bytes(key.public().pem())
    for folder, signer in (("a", key), ("b", stranger)):
        Path(folder).mkdir()
        Path(folder, "golden.dsse.json").write_bytes(sign_document(document(prediction()), [signer]))
    assert run(["diff", "a", "b"]) == 0
    assert run(["diff", "a", "a", "--key", "ours.pem"]) == 0
    assert run(["diff", "a", "b", "--key", "ours.pem"]) == 1
    assert "b/golden.dsse.json" in capfd.readouterr().err
    assert run(["diff", "a", "old.json", "--key", "ours.pem"]) == 2


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"payload": 1}'])
def test_what_is_no_document_ends_with_the_files_name(capfd, text):
    Path("junk.json").write_bytes(text)
    assert run(["diff", "old.json", "junk.json"]) == 3
    assert "junk.json" in capfd.readouterr().err


def test_a_file_that_is_not_there(capfd):
    assert run(["diff", "old.json", "gone.json"]) == 2
