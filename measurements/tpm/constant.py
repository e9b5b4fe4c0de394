"""The registers that hold the same in every boot of this kind: PCR 2, 3, 6, and 8, 12, 13, 14 that stay
zero."""

from __future__ import annotations

from measurements.errors import NotPredictableError
from measurements.events import RegisterPrediction, Stability
from measurements.tpm.boot import Boot, not_pinned, pinned, separator


def predict_pcr02(boot: Boot) -> RegisterPrediction:
    """PCR 2, drivers from option ROMs (TCG PFP 1.06, 3.3.4.3): none, so the separator alone.

    A network card brings an option ROM of its own; machines of this platform give none to any device.
    """
    return pinned(2, Stability.VM_SHAPE, (separator(boot, 2),))


def predict_pcr03(boot: Boot) -> RegisterPrediction:
    """PCR 3, configuration of drivers (TCG PFP 1.06, 3.3.4.4): the separator alone."""
    return pinned(3, Stability.FIRMWARE, (separator(boot, 3),))


def predict_pcr06(boot: Boot) -> RegisterPrediction:
    """PCR 6, for the manufacturer (TCG PFP 1.06, 3.3.4.7): OVMF uses it for nothing but the separator."""
    return pinned(6, Stability.FIRMWARE, (separator(boot, 6),))


def predict_pcr08(boot: Boot) -> RegisterPrediction:
    """PCR 8, GRUB's commands (UAPI group, Linux TPM PCR Registry): a UKI extends nothing."""
    return _zero(boot, 8)


def predict_pcr12(boot: Boot) -> RegisterPrediction:
    """PCR 12, overrides of the UKI's configuration: zero.

    systemd-stub(7), "TPM PCR Notes": command lines, credentials, add-ons and configuration extensions from
    outside the UKI. Asserted, because a command line could be injected into an image that does not pin it.
    """
    return _zero(boot, 12)


def predict_pcr13(boot: Boot) -> RegisterPrediction:
    """PCR 13, system extensions beside the UKI (systemd-stub(7), "TPM PCR Notes"): zero, and asserted."""
    return _zero(boot, 13)


def predict_pcr14(boot: Boot) -> RegisterPrediction:
    """PCR 14, shim's MOK (UAPI group, Linux TPM PCR Registry): zero, the firmware starts the image itself."""
    return _zero(boot, 14)


def _zero(boot: Boot, index: int) -> RegisterPrediction:
    try:
        boot.require_known_loader()
    except NotPredictableError as error:
        return not_pinned(index, str(error))
    return pinned(index, Stability.IMAGE, ())
