"""The machine that firmware with Secure Boot needs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.qemu import Wiring, qemu_arguments
from builder.boot.qtest import tables_key
from builder.tools import Tools
from measurements.prediction import BootPath

MACHINE = Machine(type="pc-q35-10.0", cpu="qemu64", memory_mib=2048, vcpus=2)
FIRMWARE = Firmware(name="f", package="p", version="1", code=Path("/code"), variables=Path("/vars"))
SECURED = "driver=cfi.pflash01,property=secure,value=on"


def arguments(machine):
    wiring = Wiring(tpm=Path("/t/tpm"), variables=Path("/t/vars"))
    return qemu_arguments(machine, FIRMWARE, BootPath.DISK, wiring, accelerator="tcg")


def test_only_system_management_mode_writes_the_flash():
    without, with_smm = arguments(MACHINE), arguments(replace(MACHINE, smm=True))
    assert ("-global", SECURED) in itertools.pairwise(with_smm) and SECURED not in without
    assert ("-machine", "pc-q35-10.0,smm=on,vmport=off") in itertools.pairwise(with_smm)
    assert ("-machine", "pc-q35-10.0,smm=off,vmport=off") in itertools.pairwise(without)


def test_acpi_tables_are_those_of_that_machine():
    tools = Tools(root=None)
    keys = {tables_key(tools, replace(MACHINE, smm=smm), BootPath.DISK) for smm in (False, True)}
    assert len(keys) == 2
