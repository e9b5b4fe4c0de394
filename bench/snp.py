"""Time SEV-SNP launch digests against sev-snp-measure: python bench/snp.py FIRMWARE [--runs N].

Two cases, in one process, without the time that Python takes to start:
  one     one digest: read the file, parse it, measure
  shapes  15 vCPU counts (those that Google endorses) x 6 CPU models x 3 VMM types, which share what they have in common
Every value of both is compared before anything is timed. A third line times the commands as whole processes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

from sevsnpmeasure import guest, vcpu_types, vmm_types
from sevsnpmeasure.sev_mode import SevMode

from measurements.snp import cpu
from measurements.snp.image import load
from measurements.snp.launch import Launch, LaunchDigests
from measurements.snp.vmsa import Vmm

COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 224, 240)
MODELS = ("EPYC", "EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin")
VMMS = {
    Vmm.QEMU: vmm_types.VMMType.QEMU,
    Vmm.EC2: vmm_types.VMMType.ec2,
    Vmm.GCE: vmm_types.VMMType.gce,
}
SHAPES = tuple(product(COUNTS, MODELS, VMMS))
ONE = ((4, "EPYC-Milan", Vmm.QEMU),)


def ours(firmware: Path, shapes) -> list[bytes]:
    digests = LaunchDigests(load(firmware.read_bytes()))
    return [
        digests.digest(Launch(vmm=vmm, vcpus=vcpus, signature=cpu.MODELS[model]))
        for vcpus, model, vmm in shapes
    ]


def theirs(firmware: Path, shapes) -> list[bytes]:
    return [
        guest.calc_launch_digest(
            SevMode.SEV_SNP,
            vcpus,
            vcpu_types.CPU_SIGS[model],
            str(firmware),
            "",
            "",
            "",
            1,
            vmm_type=VMMS[vmm],
        )
        for vcpus, model, vmm in shapes
    ]


def seconds(call: Callable[[], object], runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return taken


def report(name: str, mine: list[float], other: list[float]) -> None:
    ratio = statistics.median(other) / statistics.median(mine)
    print(
        f"{name:<8}  ours {statistics.median(mine) * 1e3:9.2f} ms   sev-snp-measure "
        f"{statistics.median(other) * 1e3:9.2f} ms   {ratio:6.1f} times as fast"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("firmware", type=Path)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    firmware: Path = given.firmware
    if ours(firmware, SHAPES) != theirs(firmware, SHAPES):
        sys.exit("the digests differ: nothing to time")
    print(f"{len(SHAPES)} shapes agree; {firmware.stat().st_size / (1 << 20):.1f} MiB of firmware")
    report(
        "one",
        seconds(lambda: ours(firmware, ONE), given.runs * 5),
        seconds(lambda: theirs(firmware, ONE), given.runs * 5),
    )
    report(
        "shapes",
        seconds(lambda: ours(firmware, SHAPES), given.runs),
        seconds(lambda: theirs(firmware, SHAPES), min(given.runs, 3)),
    )
    shape = ["--vcpus", "4", "--vcpu-type", "EPYC-Milan"]
    commands = (
        [sys.executable, "-m", "builder.cli", "predict", "snp", "--firmware", str(firmware), *shape],
        [sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp", "--ovmf", str(firmware), *shape],
    )
    report(
        "process",
        *(
            seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL), given.runs)  # noqa: B023
            for command in commands
        ),
    )


if __name__ == "__main__":
    main()
