"""NVML, NVIDIA's management library: the thirteen functions that the gate and the evidence service call, and no others.

Signatures, constants and structures are those of nvml.h of driver 550, as nvidia-ml-py 12.550.89 has them
(``pynvml.py``; NVIDIA publishes both from one source). The library is the only place where Python calls foreign code.
"""

import ctypes
from types import TracebackType

LIBRARY = "libnvidia-ml.so.1"

SUCCESS = 0
ARCHITECTURES = {9: "hopper", 10: "blackwell"}  # NVML_DEVICE_ARCH_*
_FEATURE_ENABLED, _DEVTOOLS_ON, _ENVIRONMENT_PRODUCTION = 1, 1, 2  # NVML_CC_SYSTEM_*
_ACCEPTING = {True: 1, False: 0}  # NVML_CC_ACCEPTING_CLIENT_REQUESTS_*
_VERSION_SIZE, _UUID_SIZE = 80, 96  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE, NVML_DEVICE_UUID_V2_BUFFER_SIZE
NONCE_SIZE = 0x20  # NVML_CC_GPU_CEC_NONCE_SIZE
MAX_DEVICES = 64

_uint = ctypes.c_uint
_Device = ctypes.c_void_p


class SystemState(ctypes.Structure):
    """nvmlConfComputeSystemState_t."""

    _fields_ = [("environment", _uint), ("ccFeature", _uint), ("devToolsMode", _uint)]


class Certificate(ctypes.Structure):
    """nvmlConfComputeGpuCertificate_t."""

    _fields_ = [
        ("certChainSize", _uint),
        ("attestationCertChainSize", _uint),
        ("certChain", ctypes.c_ubyte * 0x1000),
        ("attestationCertChain", ctypes.c_ubyte * 0x1400),
    ]


class AttestationReport(ctypes.Structure):
    """nvmlConfComputeGpuAttestationReport_t."""

    _fields_ = [
        ("isCecAttestationReportPresent", _uint),
        ("attestationReportSize", _uint),
        ("cecAttestationReportSize", _uint),
        ("nonce", ctypes.c_ubyte * NONCE_SIZE),
        ("attestationReport", ctypes.c_ubyte * 0x2000),
        ("cecAttestationReport", ctypes.c_ubyte * 0x1000),
    ]


_POINTER = ctypes.POINTER
#: Function -> types of its arguments; each returns nvmlReturn_t.
_FUNCTIONS = {
    "nvmlInit_v2": (),
    "nvmlShutdown": (),
    "nvmlSystemGetDriverVersion": (ctypes.c_char_p, _uint),
    "nvmlSystemGetConfComputeState": (_POINTER(SystemState),),
    "nvmlSystemGetConfComputeGpusReadyState": (_POINTER(_uint),),
    "nvmlSystemSetConfComputeGpusReadyState": (_uint,),
    "nvmlDeviceGetCount_v2": (_POINTER(_uint),),
    "nvmlDeviceGetHandleByIndex_v2": (_uint, _POINTER(_Device)),
    "nvmlDeviceGetUUID": (_Device, ctypes.c_char_p, _uint),
    "nvmlDeviceGetArchitecture": (_Device, _POINTER(_uint)),
    "nvmlDeviceGetConfComputeGpuCertificate": (_Device, _POINTER(Certificate)),
    "nvmlDeviceGetConfComputeGpuAttestationReport": (_Device, _POINTER(AttestationReport)),
}


class NvmlError(Exception):
    """NVML refused, or is not what it should be."""


class Nvml:
    """A session with the driver.

    Every method raises `NvmlError` when the library reports an error.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        """Load the library and initialise it."""
        try:
            self._library = ctypes.CDLL(library)
            self._error_string = self._library.nvmlErrorString
            for name, arguments in _FUNCTIONS.items():
                function = getattr(self._library, name)
                function.argtypes, function.restype = arguments, ctypes.c_int
        except (OSError, AttributeError) as error:
            raise NvmlError(f"{library} cannot be used: {error}") from None
        self._error_string.argtypes, self._error_string.restype = (ctypes.c_int,), ctypes.c_char_p
        self._call("nvmlInit_v2")

    def __enter__(self) -> "Nvml":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._library.nvmlShutdown()

    def driver_version(self) -> str:
        """Return the driver's version, such as "550.163.01"."""
        text = ctypes.create_string_buffer(_VERSION_SIZE)
        self._call("nvmlSystemGetDriverVersion", text, _VERSION_SIZE)
        return _text(text)

    def confidential_mode(self) -> bool:
        """Whether confidential computing is on, and for production."""
        state = self._state()
        return state.ccFeature == _FEATURE_ENABLED and state.environment == _ENVIRONMENT_PRODUCTION

    def developer_tools(self) -> bool:
        """Whether tools of developers may look into the GPUs; any value but "off" counts as on."""
        return self._state().devToolsMode != 0

    def ready(self) -> bool:
        """Whether the GPUs accept work; any value but "no" counts as yes."""
        state = _uint()
        self._call("nvmlSystemGetConfComputeGpusReadyState", ctypes.byref(state))
        return state.value != _ACCEPTING[False]

    def set_ready(self, ready: bool) -> None:
        """Let the GPUs accept work, or refuse it. The driver wants CAP_SYS_ADMIN."""
        self._call("nvmlSystemSetConfComputeGpusReadyState", _ACCEPTING[ready])

    def devices(self) -> list[ctypes.c_void_p]:
        """Return a handle of each GPU, in the driver's order."""
        count = _uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        if count.value > MAX_DEVICES:
            raise NvmlError(f"{count.value} GPUs; at most {MAX_DEVICES} are looked at")
        found = []
        for index in range(count.value):
            device = _Device()
            self._call("nvmlDeviceGetHandleByIndex_v2", index, ctypes.byref(device))
            found.append(device)
        return found

    def uuid(self, device: ctypes.c_void_p) -> str:
        """Return the driver's name for a GPU."""
        text = ctypes.create_string_buffer(_UUID_SIZE)
        self._call("nvmlDeviceGetUUID", device, text, _UUID_SIZE)
        return _text(text)

    def architecture(self, device: ctypes.c_void_p) -> str:
        """Return a GPU's architecture, "hopper" or "blackwell"; another one by its number."""
        number = _uint()
        self._call("nvmlDeviceGetArchitecture", device, ctypes.byref(number))
        return ARCHITECTURES.get(number.value, f"architecture-{number.value}")

    def certificates(self, device: ctypes.c_void_p) -> bytes:
        """Return the certificates of a GPU's attestation key, PEM."""
        chain = Certificate()
        self._call("nvmlDeviceGetConfComputeGpuCertificate", device, ctypes.byref(chain))
        pem = _filled("certificates", chain.attestationCertChain, chain.attestationCertChainSize)
        return pem.rstrip(b"\0")  # the size counts C's end of a string

    def report(self, device: ctypes.c_void_p, nonce: bytes) -> bytes:
        """Return a GPU's signed answer to a nonce of 32 bytes: SPDM request and response."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce of {len(nonce)} bytes; expected {NONCE_SIZE}")
        report = AttestationReport()
        report.nonce[:] = nonce
        self._call("nvmlDeviceGetConfComputeGpuAttestationReport", device, ctypes.byref(report))
        return _filled("report", report.attestationReport, report.attestationReportSize)

    def _state(self) -> SystemState:
        state = SystemState()
        self._call("nvmlSystemGetConfComputeState", ctypes.byref(state))
        return state

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != SUCCESS:
            said = self._error_string(code) or b""
            raise NvmlError(f"{name}: {said.decode('ascii', 'replace')} ({code})")


def _text(buffer: ctypes.Array[ctypes.c_char]) -> str:
    return buffer.value.decode("ascii", "replace")


def _filled(what: str, array: ctypes.Array[ctypes.c_ubyte], size: int) -> bytes:
    """Return as many bytes of an array as the library says it wrote; it is not believed to have kept within it."""
    if not 0 < size <= len(array):
        raise NvmlError(f"{what} of {size} bytes; expected 1 to {len(array)}")
    return bytes(array[:size])
