"""The calls of NVML, made for real: against a library with the same functions and layouts, compiled here."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from gate_machine import nvml

NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "no C compiler; HOST_PACKAGES in the Makefile names gcc"
    library = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml_stand_in.c")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True, timeout=60
    )
    return library


@pytest.fixture
def library(compiled, tmp_path):
    """The library, fresh: loaded from a file of its own, so that no test sees another's settings."""
    own = tmp_path / compiled.name
    shutil.copy(compiled, own)
    loaded = ctypes.CDLL(str(own))
    loaded.path = str(own)
    return loaded


def number(library, name, value):
    ctypes.c_uint.in_dll(library, name).value = value


def fail(library, function, code=15):
    (ctypes.c_char * 64).in_dll(library, "failing").value = function.encode()
    ctypes.c_int.in_dll(library, "code").value = code


def calls(library):
    return (ctypes.c_char * 4096).in_dll(library, "calls").value.decode().split()


def test_layouts_are_those_of_the_header(library):
    """The C compiler's sizes of nvml.h's structures."""
    sizes = list((ctypes.c_uint * 3).in_dll(library, "sizes"))
    ours = (nvml.SystemState, nvml.Certificate, nvml.AttestationReport)
    assert [ctypes.sizeof(structure) for structure in ours] == sizes


def test_a_session(library):
    with nvml.Nvml(library.path) as driver:
        assert driver.driver_version() == "550.163.01"
        assert driver.confidential_mode() and not driver.developer_tools()
        first, second = driver.devices()
        assert [driver.uuid(first), driver.uuid(second)] == ["GPU-one", "GPU-two"]
        assert [driver.architecture(first), driver.architecture(second)] == ["hopper", "blackwell"]
        assert [driver.certificates(first), driver.certificates(second)] == [b"PEM 1", b"PEM 2"]
        for device, name in ((first, b"\1"), (second, b"\2")):
            assert driver.report(device, NONCE) == NONCE + name + bytes(0x40 - 0x22) + b"\xff"
    assert calls(library)[0] == "nvmlInit_v2" and calls(library)[-1] == "nvmlShutdown"


def test_ready_is_set_and_read(library):
    with nvml.Nvml(library.path) as driver:
        assert not driver.ready()
        driver.set_ready(True)
        assert driver.ready() and ctypes.c_uint.in_dll(library, "accepting").value == 1
        driver.set_ready(False)
        assert not driver.ready()


@pytest.mark.parametrize(
    ("name", "value", "mode", "tools", "ready"),
    [
        ("feature", 0, False, False, False),
        ("feature", 2, False, False, False),
        ("environment", 1, False, False, False),  # simulation
        ("environment", 0, False, False, False),
        ("tools", 1, True, True, False),
        ("tools", 7, True, True, False),
        ("accepting", 2, True, False, True),
    ],
)
def test_an_unknown_value_is_the_worse_one(library, name, value, mode, tools, ready):
    number(library, name, value)
    with nvml.Nvml(library.path) as driver:
        assert (driver.confidential_mode(), driver.developer_tools(), driver.ready()) == (mode, tools, ready)


@pytest.mark.parametrize("function", sorted(set(nvml._FUNCTIONS) - {"nvmlShutdown"}))
def test_every_error_is_one(library, function):
    fail(library, function)

    def everything():
        with nvml.Nvml(library.path) as driver:
            driver.driver_version()
            driver.confidential_mode()
            driver.ready()
            driver.set_ready(True)
            for device in driver.devices():
                driver.uuid(device)
                driver.architecture(device)
                driver.certificates(device)
                driver.report(device, NONCE)

    with pytest.raises(nvml.NvmlError, match=rf"{function}: GPU is lost \(15\)"):
        everything()


@pytest.mark.parametrize("size", [0, 0x2001, 0xFFFFFFFF])
def test_a_size_beyond_the_structure_is_not_believed(library, size):
    with nvml.Nvml(library.path) as driver:
        device = driver.devices()[0]
        number(library, "report_size", size)
        with pytest.raises(nvml.NvmlError, match=f"report of {size} bytes"):
            driver.report(device, NONCE)
        number(library, "chain_size", 0x1401 if size else 0)
        with pytest.raises(nvml.NvmlError, match="certificates of"):
            driver.certificates(device)


def test_the_largest_report(library):
    number(library, "report_size", 0x2000)
    with nvml.Nvml(library.path) as driver:
        assert len(driver.report(driver.devices()[0], NONCE)) == 0x2000


def test_other_architectures_have_a_number(library):
    number(library, "architecture", 8)
    with nvml.Nvml(library.path) as driver:
        assert driver.architecture(driver.devices()[0]) == "architecture-8"


def test_more_gpus_than_there_can_be(library):
    number(library, "count", 1000)
    with nvml.Nvml(library.path) as driver, pytest.raises(nvml.NvmlError, match="1000 GPUs"):
        driver.devices()


@pytest.mark.parametrize("size", [0, 31, 33])
def test_nonces_of_another_size(library, size):
    with nvml.Nvml(library.path) as driver, pytest.raises(ValueError, match=f"a nonce of {size} bytes"):
        driver.report(driver.devices()[0], bytes(size))


def test_no_library():
    with pytest.raises(nvml.NvmlError, match="cannot be used"):
        nvml.Nvml("libnvidia-ml-is-not-here.so.1")


def test_a_library_of_another_kind():
    with pytest.raises(nvml.NvmlError, match="cannot be used"):
        nvml.Nvml("libc.so.6")
