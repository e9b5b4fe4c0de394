"""The command line: one verb, one file. Nothing below this package prints or exits."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
from types import FrameType, ModuleType
from typing import NoReturn

#: verb -> what it does; the module of the same name (dashes as underscores) holds ``command``, a typer ``app``,
#: or ``main`` where the verb must run without typer.
VERBS = {
    "build": "compose, assemble, predict and sign a release from a recipe",
    "seal": "sign a finished release for Secure Boot",
    "boot": "boot a release in QEMU with a software TPM and verify it",
    "predict": "predict the registers of any UKI, disk and firmware",
    "replay": "fold an event log into registers and check what it proves",
    "diff": "say which inputs moved which registers between two golden documents",
    "verify": "decide whether evidence comes from a machine that runs the image",
    "gpu": "decide whether a report comes from a GPU that runs the reference driver and firmware",
    "rim": "import reference values of GPUs into a recipe",
    "lock": "resolve a recipe's packages and pin every input by hash",
    "fetch": "bring every locked input into the store",
    "vault": "fill a folder with every locked input",
    "keygen": "make a signing key",
    "keys": "make Secure Boot keys, enrol them, sign a UKI",
    "sign": "sign a golden document, or add a signature",
    "calibrate": "learn a firmware's profile by booting it alone",
    "audit": "hold the final bytes of an image against every rule of the hardening profile",
    "why": "say which package or recipe file a path of the image comes from",
    "snp": "sign SEV-SNP ID blocks, print and verify attestation reports",
    "tdx": "print and verify TDX quotes",
    "schema": "write the JSON Schema of recipes",
}

#: Sub-verbs with a module of their own: they start without what their siblings import.
SUB_VERBS = {
    ("predict", "snp"): "predict_snp",
    ("predict", "tdx"): "predict_tdx",
    ("predict", "igvm"): "predict_igvm",
    ("predict", "profile"): "predict_profile",
    ("predict", "compose"): "predict_compose",
    ("snp", "id-block"): "snp_id_block",
    ("tdx", "quote"): "tdx_quote",
    ("tdx", "verify"): "tdx_verify",
    ("snp", "report"): "snp_report",
    ("snp", "verify"): "snp_verify",
}

_INTERRUPTED = 130

_HELP = """goldsmith: locked-down, reproducible confidential-VM images and the golden values that prove them

usage: goldsmith VERB [arguments]        goldsmith VERB --help explains a verb

{verbs}

exit codes: 0 ok, 1 verification failed, 2 usage, 3 build or environment
"""


def main() -> NoReturn:
    """Run one verb and exit with its code (docs/cli.md)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without Unicode, a path that is no UTF-8: written out, and no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one verb and return its exit code."""
    signal.signal(signal.SIGTERM, _interrupted)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS))
        verbs = "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
        sys.stdout.write(_HELP.format(verbs=verbs))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"goldsmith {version('goldsmith')}\n")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"goldsmith: there is no verb {verb!r}{meant}\n")
        return 2
    return _run_verb(verb, rest)


def _run_verb(verb: str, arguments: list[str]) -> int:
    from builder.cli import console
    from builder.errors import BuilderError
    from measurements.errors import MeasurementError

    name = verb.replace("-", "_")
    if arguments and (verb, arguments[0]) in SUB_VERBS:
        name, arguments = SUB_VERBS[verb, arguments[0]], arguments[1:]
    try:
        module = importlib.import_module(f"builder.cli.{name}")
        # A verb with a main() of its own runs without the extra `build`: verifiers do not install it.
        main = getattr(module, "main", None)
        code: int = main(arguments) if main is not None else _run_typer(verb, module, arguments)
        sys.stdout.flush()
        return code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("builder", "measurements"):
            raise
        console.error(
            f"{verb} needs the Python package {error.name}, which is not installed",
            hint='pip install "goldsmith[build]"',
        )
        return 3
    except BuilderError as error:
        console.error(str(error), hint=error.hint)
        return error.exit_code
    except MeasurementError as error:
        console.error(str(error))
        return 3
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        console.error("interrupted; nothing half-written was left behind")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever reads the result has gone, so it was not given; code 0 would say that all is well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 3
    except OSError as error:
        console.error(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))
        return 3


def _run_typer(verb: str, module: ModuleType, arguments: list[str]) -> int:
    import typer

    from builder.cli import console

    app: typer.Typer | None = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        app.command(help=module.command.__doc__)(module.command)
    try:
        result = app(arguments, prog_name=f"goldsmith {verb}", standalone_mode=False)
        if result == _INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except SystemExit:  # what typer makes of a BrokenPipeError; no verb exits by itself
        raise BrokenPipeError from None
    except typer.Abort:  # Ctrl-C at a prompt
        raise KeyboardInterrupt from None
    except Exception as error:
        if hasattr(error, "format_message"):  # click.UsageError and its kin
            console.error(error.format_message(), hint=f"goldsmith {verb} --help")
            return 2
        raise


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
