"""From the calculator to the verdict: a machine that measures what another image would is told apart by part."""

import json

import launch_samples as samples
import pytest
from attester import Machine, Record, document, policy, signed

from measurements import golden
from measurements.events import ALL_BANKS
from measurements.formats.ovmf import DXEFV
from measurements.platforms.firmware import SHELL
from measurements.predict import predict_tpm
from measurements.verify import verify


def predict(**changes):
    return predict_tpm(samples.inputs(banks=ALL_BANKS, **changes))


def machine(prediction):
    """A machine that measures what the prediction says."""
    result = Machine(records=[], words=[])
    for register in prediction.registers:
        for event in register.alternatives[0].events if register.alternatives else ():
            if event.type is None:
                result.words.append((event.register, event.description.removeprefix("phase ")))
            else:
                result.records.append(
                    Record(event.register, int(event.type), dict(event.digests), event.data or b"")
                )
    return result


def run(prediction):
    evidence = json.dumps(machine(prediction).evidence()).encode()
    return verify(ENVELOPE, evidence, policy())


def with_section(name, data):
    sections = [(item[0], data) if item[0] == name else item for item in samples.SECTIONS]
    return samples.uki(sections)


PREDICTION = predict()
ENVELOPE = signed(document(PREDICTION))


def test_predictions_survive_the_document():
    parsed = golden.parse(golden.to_pretty(document(PREDICTION)))
    assert parsed.predictions == (PREDICTION,)


def test_the_predicted_machine_passes():
    verdict = run(PREDICTION)
    assert verdict.passed, verdict.failures


OTHER_DXEFV = samples.volume(DXEFV, (SHELL, 9, samples.section(0x19, b"etc/boot/\0evil")))
ATTACKS = {
    "root hash": (
        {"image": with_section(".cmdline", b"root=evil")},
        {4, 9, 11},
        "PCR 11: uki .cmdline differs",
    ),
    "initrd": ({"image": with_section(".initrd", b"evil")}, {4, 9, 11}, "PCR 11: uki .initrd differs"),
    "kernel": (
        {"image": with_section(".linux", samples.kernel(version=b"6.12.0-evil"))},
        {4, 11},
        "PCR 11: uki .linux differs",
    ),
    "firmware": ({"firmware": samples.firmware(dxefv=OTHER_DXEFV)}, {0}, "PCR 0: firmware DXEFV differs"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_part_is_named(attack):
    changes, registers, message = ATTACKS[attack]
    verdict = run(predict(**changes))
    assert not verdict.passed
    wrong = {item.index for item in verdict.registers if item.pinned and not item.equal}
    assert wrong == registers
    assert message in verdict.checks[12].detail
    assert any(item.where.endswith(message.split(":")[0]) for item in golden.compare(
        document(PREDICTION), document(predict(**changes))
    ))  # fmt: skip
