"""The virtual machine: the one place that decides which devices it has, and in which slots.

ACPI tables depend on every device, slot and property, and PCR 1 on the ACPI tables: so the machine that boots
and the machine whose tables are read for a prediction (`builder.boot.qtest`) get their arguments here, and
differ only in where their backends lead (`Wiring`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from builder.artifacts import Firmware, Machine
from builder.boot.pci import Processor
from builder.errors import UsageError
from measurements.platforms.qemu import BootDevice, VirtioBlk, VirtioNet
from measurements.prediction import BootPath

#: The virtio-serial port that the evidence service answers on.
EVIDENCE_PORT_NAME = "org.goldsmith.evidence.0"
#: The virtio-serial port of a test extension's command channel; no machine but those of live tests has it.
CHANNEL_PORT_NAME = "org.goldsmith.live.0"

#: The first bus address behind the boot disk that this module leaves to `Machine.devices`.
FREE_SLOT = 0x04

#: Address width and vendor decide where firmware puts 64-bit BARs (edk2 PlatformInitLib), hence ACPI, hence
#: PCR 1; left open, KVM would take both from the host.
PROCESSOR = Processor(vendor="AuthenticAMD", address_bits=40)

#: The boot disk's address on bus 0; its boot option names it.
DISK_SLOT = 0x01
_SERIAL_SLOT, _NETWORK_SLOT = 0x02, 0x03
_MAC = "52:54:00:12:34:56"

#: GPUs come from here on, up to the chipset's own devices at 0x1f.
_GPU_SLOT = 0x10
#: A device with a 64-bit BAR of any size, behind which there is no memory.
_STAND_IN = "pci-testdev"

#: CPU models without RDRAND.
_NOT_RANDOM = ("qemu64", "kvm64")
#: QEMU's devices for which OVMF has a driver that gives random numbers (edk2 OvmfPkg/VirtioRngDxe).
_RANDOM_DEVICE = "virtio-rng"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Where the machine's backends lead on the host; none of it is visible in any register.

    Attributes:
        tpm: swtpm's control socket.
        variables: private, writable copy of the firmware's variable store.
        disk: disk image to boot or to serve the root from, never written to; `None` for an empty medium.
        uki: what `-kernel` loads; `None` on a disk boot.
        console: QEMU chardev of the serial console ("stdio", "null").
        evidence: socket that the evidence port listens on.
        channel: socket of one more virtio-serial port, which a test extension of the guest serves; `None` leaves
            the port out. A port is no device of its own to firmware, so PCR 1 does not see it.
        forward: (host port on 127.0.0.1, guest port) reachable over the network.
        wire: listening UNIX stream socket that the network card is plugged into instead of QEMU's own network:
            Ethernet frames both ways, each behind its length (u32, big endian), none lost.
        memory: file that holds the guest's RAM, for reading it from outside.
        smbios_string: SMBIOS type 11 string (debug boots only: it shows in PCR 1 and 12).
        append: what a host adds to the command line of a direct boot; no boot of a release has it.
        drives: (id, raw file that the guest may write to) of the drives that `Machine.devices` name.
    """

    tpm: Path
    variables: Path
    disk: Path | None = None
    uki: Path | None = None
    console: str = "null"
    evidence: Path | None = None
    channel: Path | None = None
    forward: tuple[int, int] | None = None
    wire: Path | None = None
    memory: Path | None = None
    smbios_string: str | None = None
    append: str | None = None
    drives: tuple[tuple[str, Path], ...] = ()


def qemu_arguments(
    machine: Machine,
    firmware: Firmware,
    boot: BootPath,
    wiring: Wiring,
    *,
    accelerator: str,
    bare: bool = False,
) -> list[str]:
    """Return QEMU's arguments without the program.

    Args:
        machine: type, CPU, memory, vCPUs, SMM and additional devices.
        firmware: code (read only) and variables.
        boot: disk or `-kernel`.
        wiring: the host's side of every backend.
        accelerator: for `-accel` ("kvm", "tcg,thread=multi").
        bare: without disk, network, evidence port and additional devices, so that firmware has only its own
            boot options.

    Raises:
        UsageError: a direct boot without a UKI; a port to forward and a wire of one's own.
    """
    arguments = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display", "none",
        # Without the VMware port: for other guests.
        "-machine", f"{machine.type},smm={'on' if machine.smm else 'off'},vmport=off",
        "-accel", accelerator,
        "-cpu", processor_argument(machine.cpu, PROCESSOR),
        *size_arguments(machine),
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={_escape(firmware.code)}",
        "-drive", f"if=pflash,unit=1,format=raw,file={_escape(wiring.variables)}",
        "-chardev", f"socket,id=tpm0,path={_escape(wiring.tpm)}",
        "-tpmdev", "emulator,id=tpm0,chardev=tpm0",
        "-device", "tpm-crb,tpmdev=tpm0",
        *console_arguments(wiring),
    ]  # fmt: skip
    if machine.smm:
        # Else the guest could rewrite the databases past the firmware (edk2 OvmfPkg/README, "SMM support").
        arguments += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    if not bare:
        arguments += device_arguments(machine, wiring)
    if wiring.smbios_string is not None:
        arguments += ["-smbios", f"type=11,value={wiring.smbios_string.replace(',', ',,')}"]
    if wiring.memory is not None:
        size = f"size={machine.memory_mib}M"
        arguments += [
            "-object", f"memory-backend-file,id=ram,mem-path={_escape(wiring.memory)},share=on,{size}",
            "-machine", "memory-backend=ram",
        ]  # fmt: skip
    if boot is BootPath.DIRECT:
        if wiring.uki is None:
            raise UsageError("a direct boot needs a UKI to give to -kernel, and got none")
        arguments += ["-kernel", str(wiring.uki)]
        if wiring.append is not None:
            arguments += ["-append", wiring.append]
    return arguments


def size_arguments(machine: Machine) -> list[str]:
    """Return the arguments for vCPUs, all in one socket, and memory."""
    return [
        "-smp", f"cpus={machine.vcpus},sockets=1,cores={machine.vcpus},threads=1",
        "-m", f"size={machine.memory_mib}M",
    ]  # fmt: skip


def processor_argument(model: str, processor: Processor) -> str:
    """Return the value of ``-cpu`` for a model with another vendor and address width."""
    return f"{model},vendor={processor.vendor},phys-bits={processor.address_bits},host-phys-bits=off"


def console_arguments(wiring: Wiring) -> list[str]:
    """Return the arguments for the serial console."""
    return ["-chardev", f"{wiring.console},id=console", "-serial", "chardev:console"]


def device_arguments(machine: Machine, wiring: Wiring) -> list[str]:
    """Return the arguments for what is on the PCI bus of every machine, and for the machine's own devices.

    Raises:
        UsageError: a port to forward and a wire of one's own.
    """
    arguments = _disk(wiring.disk)
    arguments += _serial_ports(wiring.evidence, wiring.channel)
    arguments += _network(wiring.forward, wiring.wire)
    for name, file in wiring.drives:
        arguments += ["-drive", f"if=none,id={name},format=raw,file={_escape(file)}"]
    for device in machine.devices:
        arguments += ["-device", device]
    for slot, bars in gpu_slots(machine).items():
        # What a vfio-pci device would be: ACPI tables show a function's place and its BARs, not what it is.
        arguments += ["-device", f"{_STAND_IN},addr=0x{slot:02x},membar={max(bars)}"]
    return arguments


def gpu_slots(machine: Machine) -> dict[int, tuple[int, ...]]:
    """Return slot on bus 0 -> sizes of 64-bit BARs, of every GPU that the host passes through."""
    return {_GPU_SLOT + number: bars for number, bars in enumerate(machine.gpus)}


def boot_devices() -> tuple[BootDevice, ...]:
    """Return what every machine offers its firmware to boot from."""
    card = VirtioNet(slot=_NETWORK_SLOT, mac=bytes.fromhex(_MAC.replace(":", "")))
    return (VirtioBlk(slot=DISK_SLOT), card)


def random_numbers(machine: Machine) -> bool | None:
    """Return whether UEFI finds random numbers on the machine; ``None`` where the CPU or a device may have them."""
    if any(device.startswith(_RANDOM_DEVICE) for device in machine.devices):
        return None
    return False if machine.cpu in _NOT_RANDOM else None


def _disk(image: Path | None) -> list[str]:
    # snapshot=on: what the guest writes goes to a temporary file that QEMU unlinks at once; the image itself is
    # opened read only.
    source = (
        f"if=none,id=disk,format=raw,snapshot=on,file={_escape(image)}"
        if image is not None
        else "if=none,id=disk,driver=null-co,size=1M,read-zeroes=on"
    )
    return [
        "-drive", source,
        "-device", f"virtio-blk-pci,drive=disk,addr=0x{DISK_SLOT:02x},disable-legacy=on",
    ]  # fmt: skip


def _serial_ports(evidence: Path | None, channel: Path | None) -> list[str]:
    ports = 2 if channel is None else 3  # number 0 is kept for a console
    arguments = [
        "-device",
        f"virtio-serial-pci,addr=0x{_SERIAL_SLOT:02x},disable-legacy=on,max_ports={ports}",
    ]
    arguments += _serial_port("evidence", EVIDENCE_PORT_NAME, evidence)
    if channel is not None:
        arguments += _serial_port("channel", CHANNEL_PORT_NAME, channel)
    return arguments


def _serial_port(identifier: str, name: str, socket: Path | None) -> list[str]:
    backend = f"socket,path={_escape(socket)},server=on,wait=off" if socket is not None else "null"
    return [
        "-chardev", f"{backend},id={identifier}",
        "-device", f"virtserialport,chardev={identifier},name={name}",
    ]  # fmt: skip


def _network(forward: tuple[int, int] | None, wire: Path | None) -> list[str]:
    if wire is not None:
        if forward is not None:
            raise UsageError("only QEMU's own network forwards ports, and the machine has another one")
        backend = f"stream,server=off,addr.type=unix,addr.path={_escape(wire)}"
    else:
        # Both named: one protocol switched on by name switches the other off (QEMU net/slirp.c, net_init_slirp).
        backend = "user,restrict=on,ipv4=on,ipv6=on"
        if forward is not None:
            backend += f",hostfwd=tcp:127.0.0.1:{forward[0]}-:{forward[1]}"
    return [
        "-netdev", f"{backend},id=network",
        # romfile: an option ROM would be measured into PCR 2.
        "-device",
        f"virtio-net-pci,netdev=network,addr=0x{_NETWORK_SLOT:02x},disable-legacy=on,romfile=,mac={_MAC}",
    ]  # fmt: skip


def _escape(path: Path) -> str:
    """Return a path for a comma-separated option (QEMU's QemuOpts: a doubled comma is one)."""
    return str(path).replace(",", ",,")
