"""A trust domain to predict, of recorded tables and small images."""

from dataclasses import replace

import launch_samples as samples
import tdx_samples

from measurements.tdx.inputs import FwCfgItems, TdxInputs
from measurements.tdx.predict import predict_tdx

BOOT_ORDER = b"/rom@genroms/linuxboot_dma.bin\0"


def inputs(**changes):
    values = {
        "firmware_name": "ovmf",
        "firmware": tdx_samples.firmware(tdx_samples.OVMF),
        "memory_mib": 2048,
        "vcpus": 2,
        "image": samples.KERNEL,
        "command_line": samples.CMDLINE,
        "initrd": samples.INITRD,
        "qemu": (10, 2),
        "acpi": replace(samples.acpi("disk"), table_loader=without_tpm(), tpm_log=None),
        "fw_cfg": FwCfgItems(bootorder=BOOT_ORDER),
    } | changes
    return TdxInputs(**values)


def without_tpm():
    """The recorded loader script without the command that allocates a TPM's log: trust domains have none."""
    script = samples.acpi("disk").table_loader
    commands = [script[at : at + 128] for at in range(0, len(script), 128)]
    return b"".join(command for command in commands if b"etc/tpm/log" not in command)


def register(index, **changes):
    return predict_tdx(inputs(**changes)).registers[index]
