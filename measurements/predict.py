"""Predict what a TPM holds after one launch: the whole of PCR 0-15.

``predict_image`` works out what an image decides by itself, and ``compose`` puts that together with a platform profile.

Builder and auditors run this same code. Every value is the fold of events that name their cause; a
register whose events do not follow from the inputs has no value and says why.

Of userspace the phases of PCR 11 are predicted and, where the caller says so, that PCR 15 stays untouched. What
else a userspace extends does not follow from the image's sections: systemd >= 259 measures NvPCRs into PCR 9,
>= 261 a separator into PCR 0-7, 9 and 12-14 (systemd-pcrosseparator.service), unless the initrd leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from measurements.events import Event, HashAlgorithm, RegisterPrediction, event_type_name
from measurements.image_layer import OPERATING_SYSTEM, predict_image
from measurements.prediction import LaunchShape, Prediction, shape_to_json
from measurements.profile.compose import compose
from measurements.tpm import constant, pcr00, pcr01, pcr04, pcr05, pcr07
from measurements.tpm.boot import Boot, examine
from measurements.tpm.inputs import TpmInputs

__all__ = ["TpmInputs", "compose", "predict_image", "predict_tpm", "prediction_to_json", "register_to_json"]

_REGISTERS: Final[tuple[Callable[[Boot], RegisterPrediction], ...]] = (
    pcr00.predict,
    pcr01.predict,
    constant.predict_pcr02,
    constant.predict_pcr03,
    pcr04.predict,
    pcr05.predict,
    constant.predict_pcr06,
    pcr07.predict,
    *OPERATING_SYSTEM,
)


def predict_tpm(inputs: TpmInputs) -> Prediction:
    """Predict PCR 0-15 in every bank asked for.

    Raises:
        FormatError: the image, the variable store or a blob of the machine is malformed.
        PredictionError: the inputs contradict each other, or the image cannot boot.
    """
    boot = examine(inputs)
    shape = LaunchShape(
        platform=inputs.platform,
        firmware=inputs.firmware_identity(),
        boot=inputs.boot,
        machine=inputs.machine,
        memory_mib=inputs.memory_mib,
        vcpus=inputs.vcpus,
        secure_boot=bool(boot.secure_boot.enabled),
        gpus=inputs.gpus,
    )
    return Prediction(shape=shape, registers=tuple(predict(boot) for predict in _REGISTERS))


def prediction_to_json(prediction: Prediction, banks: tuple[HashAlgorithm, ...]) -> dict[str, Any]:
    """Return shape, registers by bank and index, and the events that explain them, as JSON values.

    ``registers[bank][index]`` has ``value`` (the usual one, or null), ``alternatives`` (every acceptable
    value), ``phases`` (values at other points in time, by label), ``stability`` and ``reason``.
    """
    return {
        "shape": shape_to_json(prediction.shape),
        "registers": {
            bank.value: {
                str(register.index): register_to_json(register, bank) for register in prediction.registers
            }
            for bank in banks
        },
        "events": [
            {
                "register": register.index,
                "sequence": sequence.label,
                "events": [_event_to_json(event) for event in sequence.events],
            }
            for register in prediction.registers
            for sequence in register.alternatives
        ],
    }


def register_to_json(register: RegisterPrediction, bank: HashAlgorithm) -> dict[str, Any]:
    """Return one register in one bank as JSON values."""
    values = [value.hex() for value in register.values(bank)]
    return {
        "value": values[0] if values else None,
        "alternatives": values,
        "phases": {sequence.label: sequence.value(bank).hex() for sequence in register.phases},
        "stability": register.stability.value,
        "reason": register.reason,
    }


def _event_to_json(event: Event) -> dict[str, Any]:
    return {
        "type": None if event.type is None else event_type_name(event.type),
        "description": event.description,
        "cause": event.cause,
        "digests": {bank.value: digest.hex() for bank, digest in event.digests.items()},
        "data": None if event.data is None else event.data.hex(),
    }
