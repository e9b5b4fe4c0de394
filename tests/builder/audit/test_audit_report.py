"""What ``audit.json`` says an image was held against, written and read back."""

from __future__ import annotations

import json

import pytest

from builder.audit.declare import with_signed_modules
from builder.audit.model import AuditReport, Declared, PolicyOption
from builder.audit.report import MAX_CERTIFICATE, dump_report, read_declared
from measurements.errors import FormatError, LimitError

PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
DECLARED = Declared(
    name="small", version="1", command_line=("ro",), debug_command_line="", modules={"root": ("a",), "initrd": ()},
    interpreters={"root": {}, "initrd": {}}, setuid={"root": {}, "initrd": {}}, ports={"tcp/1": "why"},
    kernel_policy=(PolicyOption(option="CONFIG_X", value="y", wanted=None, reason="so"),),
    waivers={"GS-MODULE-002": "unsigned", "GS-IMAGE-009": "prebuilt"},
)  # fmt: skip


def dumped(declared: Declared) -> bytes:
    return dump_report(
        AuditReport(declared=declared, kernel_package="k 1", files={}, exposure={}, results=())
    )


def test_what_was_declared_reads_back():
    assert read_declared(dumped(DECLARED)) == DECLARED


def test_signed_modules_need_no_waiver():
    signed = with_signed_modules(DECLARED, PEM)
    assert signed.module_certificate == PEM.decode() and signed.waivers == {"GS-IMAGE-009": "prebuilt"}
    assert read_declared(dumped(signed)) == signed


def test_a_report_from_before_module_signatures():
    document = json.loads(dumped(DECLARED))
    assert document["declared"].pop("module_certificate") == ""
    assert read_declared(json.dumps(document).encode()) == DECLARED


@pytest.mark.parametrize(
    ("value", "error"), [(7, FormatError), (None, FormatError), ("A" * (MAX_CERTIFICATE + 1), LimitError)]
)
def test_a_module_certificate_of_another_kind(value, error):
    document = json.loads(dumped(DECLARED))
    document["declared"]["module_certificate"] = value
    with pytest.raises(error):
        read_declared(json.dumps(document).encode())
