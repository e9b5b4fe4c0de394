"""GPU evidence: every GPU's answer to a nonce, and what the driver says, read anew.

The document is `measurements.gpu.evidence`, which verifiers read it with.
"""

from contextlib import ExitStack

from gpugate import nvml
from gpugate.machine import Machine
from measurements.errors import MeasurementError
from measurements.gpu.evidence import GateRecord, GpuEvidence, GpuReport, serialize, tidy


def collect(machine: Machine, nonce: bytes, gate: GateRecord) -> GpuEvidence:
    """Ask the driver and every GPU. What cannot be read stays unknown, and the error says why; nothing is raised.

    Args:
        machine: this one.
        nonce: what the GPUs are asked with, 32 bytes.
        gate: what the gate recorded.
    """
    found: dict[str, object] = {}
    gpus: list[GpuReport] = []
    error = None
    try:
        found["nvswitches"] = len(machine.nvswitches())
        if not machine.gpus():
            raise nvml.NvmlError("no GPU")
        with ExitStack() as stack:
            driver = stack.enter_context(machine.driver())
            found["driver_version"] = driver.driver_version()
            found["confidential_mode"] = driver.confidential_mode()
            found["developer_tools"] = driver.developer_tools()
            found["ready"] = driver.ready()
            gpus += [
                GpuReport(
                    uuid=driver.uuid(device),
                    architecture=driver.architecture(device),
                    report=driver.report(device, nonce),
                    certificates=driver.certificates(device),
                )
                for device in driver.devices()
            ]
    except (nvml.NvmlError, OSError, ValueError) as problem:
        error = tidy(str(problem)) or type(problem).__name__
    return GpuEvidence(nonce=nonce, gate=gate, gpus=tuple(gpus), error=error, **found)


def document(machine: Machine, nonce: bytes, gate: GateRecord) -> bytes:
    """Return the evidence as it is sent. What the driver says and the document cannot hold is an error in it."""
    try:
        return serialize(collect(machine, nonce, gate))
    except MeasurementError as problem:
        return serialize(GpuEvidence(nonce=nonce, gate=gate, error=tidy(str(problem))))
