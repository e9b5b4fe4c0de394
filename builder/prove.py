"""Boot a release's own bytes, and hold what the machine proves against what was predicted for it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.artifacts import Firmware, Lock
from builder.boot.session import DEFAULT_TIMEOUT, EVIDENCE_PORT, BootResult, Transport, boot_session
from builder.diagnosis import diagnose
from builder.disks import read_partition_table
from builder.errors import BootError, UntrustedError, UsageError
from builder.launches import Launch, enrolled_firmware, launches, predict_launch
from builder.progress import SILENT, Reporter
from builder.recipe.platforms import Platform
from builder.release.golden import ENVELOPE
from builder.release.manifest import Manifest, changed_parts
from builder.store import Store
from builder.toolbox import firmware, unpack_toolbox
from builder.tools import Tools
from measurements import golden
from measurements.attestation_key import load_attestation_key
from measurements.envelope import parse_statement, sign_document, verify_envelope
from measurements.errors import MeasurementError
from measurements.events import Stability
from measurements.keys import KeyAlgorithm, PublicKey, generate
from measurements.platforms.firmware import FirmwareProfile
from measurements.policy import ExpectedNonce, PinnedKey, Policy, Unproven
from measurements.prediction import BootPath, Prediction
from measurements.verify import Verdict, verify

NONCE_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How to start a release.

    Attributes:
        firmware: name of one of the release's builds, or a firmware file; None takes the first build.
        direct: start the UKI with ``-kernel``.
        secure_boot: start firmware that verifies, with the keys of a sealed release; implied where ``firmware``
            names a build that the release has for that alone.
        memory_mib: RAM; None takes the first shape's.
        vcpus: virtual CPUs; None takes the first shape's.
        debug: boot a copy whose ESP carries the console add-on.
        transport: how the evidence is fetched.
        timeout: seconds until the machine must have answered; None takes the session's own.
        console_log: file that receives the console's bytes.
    """

    firmware: str | None = None
    direct: bool = False
    secure_boot: bool = False
    memory_mib: int | None = None
    vcpus: int | None = None
    debug: bool = False
    transport: Transport = "network"
    timeout: float | None = None
    console_log: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What came of it.

    Attributes:
        launch: the machine that was started.
        firmware_sha256: of the firmware file.
        changed: parts of the release folder that are not what its manifest says.
        boot: what the machine sent; None when it did not come up.
        failure: why it did not come up, with the last console lines; None when it did.
        verdict: None when there was no evidence.
        published: the values were the release's; otherwise they were predicted for this boot alone.
        unpredicted: registers that the release pins and this boot's prediction cannot, each with the reason.
    """

    launch: Launch
    firmware_sha256: str
    changed: tuple[str, ...]
    boot: BootResult | None
    failure: str | None
    verdict: Verdict | None
    published: bool
    unpredicted: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the bytes are the release's, the machine came up, and all that a release pins holds."""
        return not self.changed and not self.unpredicted and self.verdict is not None and self.verdict.passed

    @property
    def reasons(self) -> tuple[str, ...]:
        """One text for each thing that keeps it from passing."""
        return (
            *(f"not the release's bytes: {part}" for part in self.changed),
            *self.unpredicted,
            *((self.failure,) if self.failure else ()),
            *(self.verdict.failures if self.verdict else ()),
        )


def prove(
    folder: Path,
    manifest: Manifest,
    lock: Lock,
    trial: Trial,
    *,
    keys: Sequence[PublicKey],
    store: Store,
    profiles: tuple[FirmwareProfile, ...] = (),
    reporter: Reporter = SILENT,
) -> Proof:
    """Boot the release in ``folder`` and verify its evidence under a fresh nonce.

    Args:
        folder: the release.
        manifest: its manifest.
        lock: its lock; the toolbox and firmware archives are in ``store``.
        trial: how to start it.
        keys: who may have signed the golden document.
        store: where archives and unpacked tools are.
        profiles: calibrated firmware profiles, for firmware that the release was not predicted for.
        reporter: hears of every phase.

    Raises:
        UsageError: the trial names a firmware that is neither a build nor a file.
        UntrustedError: the golden document is malformed, or none of ``keys`` signed it.
        ToolError: QEMU or swtpm cannot be started.
    """
    with reporter.phase("check release"):
        envelope = (folder / ENVELOPE).read_bytes()
        try:
            document = parse_statement(verify_envelope(envelope, keys))
        except MeasurementError as error:
            raise UntrustedError(
                f"{folder / ENVELOPE}: {error}", hint="--key PEM names who may have signed"
            ) from error
        changed = changed_parts(manifest, folder, document.outputs)
    for part in changed:
        reporter.note(f"not the release's bytes: {part}; booted all the same, to see what a verifier sees")
    with reporter.phase("toolbox"):
        tools = unpack_toolbox(lock, store)
        launch = _launch(folder, manifest, firmware(manifest.firmware, lock, store), trial)
    code = launch.firmware.code.read_bytes()
    shape = _published_shape(document, launch, hashlib.sha256(code).hexdigest())
    signers = tuple(keys)
    unpredicted: tuple[str, ...] = ()
    if shape is None:
        with reporter.phase("predict"):
            prediction = _predict(folder, launch, tools=tools, store=store, profiles=profiles)
        reporter.note(
            f"{launch.firmware.name} is none of the release's launch shapes; predicted for this boot alone"
        )
        own = generate(KeyAlgorithm.ED25519)
        unpredicted = _unpredicted(document, prediction)
        # The bytes that are booted need not be the release's, and its image layer is about those alone.
        document = replace(document, predictions=(prediction,), image_layer=None)
        envelope, signers = sign_document(document, [own]), (own.public(),)
        shape = prediction.shape.name
    nonce = secrets.token_bytes(NONCE_BYTES)
    boot, failure, verdict = None, None, None
    try:
        boot = _boot(folder, manifest, launch, trial, nonce, tools=tools, reporter=reporter)
    except BootError as error:
        with reporter.phase("look for the cause"):
            findings = diagnose(folder, document, shape, launch, tools=tools, store=store)
        failure = "\n".join([*(f"cause: {finding}" for finding in findings), str(error)])
    else:
        with reporter.phase("verify"):
            verdict = verify(
                envelope,
                boot.evidence,
                Policy(
                    threshold=1,
                    now=None,
                    minimum_svn=0,
                    signers=signers,
                    nonce=ExpectedNonce(value=nonce),
                    attestation_key=PinnedKey(key=load_attestation_key(boot.attestation_key)),
                    image=manifest.name,
                    shape=shape,
                    gpu=Unproven(reason="goldsmith boot gives the machine no GPU"),
                ),
            )
    return Proof(
        launch=launch,
        firmware_sha256=hashlib.sha256(code).hexdigest(),
        changed=changed,
        boot=boot,
        failure=failure,
        verdict=verdict,
        published=signers == tuple(keys),
        unpredicted=unpredicted,
    )


def _launch(folder: Path, manifest: Manifest, builds: tuple[Firmware, ...], trial: Trial) -> Launch:
    wanted = BootPath.DIRECT if trial.direct else BootPath.DISK
    secure = trial.secure_boot or _only_with_secure_boot(manifest.platforms, trial.firmware)
    if secure:
        builds = enrolled_firmware(manifest.platforms, builds, folder)
        if not builds:
            raise UsageError(
                f"{folder} is not sealed: there are no keys to boot it with Secure Boot on",
                hint=f"goldsmith seal {folder} --keys KEYS",
            )
    # No GPU is passed through here; what stands in for one on the bus would be another machine's.
    known = [
        item for item in launches(manifest.platforms, builds, secure_boot=secure) if not item.machine.gpus
    ]
    if not known:
        raise UsageError(f"the release {manifest.name} declares no platform to boot on")
    names = tuple(dict.fromkeys(item.firmware for item in known))
    build = _firmware(names, trial.firmware, enrolled=secure) if trial.firmware else known[0].firmware
    first = next((item for item in known if item.boot is wanted and item.firmware == build), known[0])
    return Launch(
        machine=replace(
            first.machine,
            memory_mib=trial.memory_mib or first.machine.memory_mib,
            vcpus=trial.vcpus or first.machine.vcpus,
        ),
        firmware=build,
        boot=wanted,
    )


def _only_with_secure_boot(platforms: tuple[Platform, ...], name: str | None) -> bool:
    """Return whether the platforms start a build with Secure Boot on, and never without."""
    return any(name in platform.secure_boot for platform in platforms) and not any(
        name in platform.firmware for platform in platforms
    )


def _firmware(builds: tuple[Firmware, ...], wanted: str, *, enrolled: bool) -> Firmware:
    for build in builds:
        if build.name == wanted:
            return build
    path = Path(wanted)
    names = ", ".join(build.name for build in builds)
    if not path.is_file():
        raise UsageError(f"{wanted} is neither a firmware of this release ({names}) nor a file")
    content = path.read_bytes()
    for build in builds:
        if build.code.read_bytes() == content:
            return build
    variables = path.with_name(path.name.replace("CODE", "VARS", 1))
    if enrolled or variables == path or not variables.is_file():
        # A release's store serves any build of the same layout; another layout refuses to boot.
        variables = builds[0].variables
    return Firmware(name=path.stem.lower(), package="", version="", code=path.absolute(), variables=variables)


def _published_shape(document: golden.GoldenDocument, launch: Launch, sha256: str) -> str | None:
    for prediction in document.predictions:
        shape = prediction.shape
        # A sealed release's shapes with Secure Boot on are those of machines with system management mode.
        if (
            shape.firmware.sha256,
            shape.secure_boot,
            shape.boot,
            shape.machine,
            shape.memory_mib,
            shape.vcpus,
            shape.gpus,
        ) == (
            sha256,
            launch.machine.smm,
            launch.boot,
            launch.machine.type,
            launch.machine.memory_mib,
            launch.machine.vcpus,
            len(launch.machine.gpus),
        ):
            return shape.name
    return None


def _unpredicted(document: golden.GoldenDocument, prediction: Prediction) -> tuple[str, ...]:
    """Say which registers a boot under ``prediction`` leaves open though the release pins them."""
    pinned = {
        register.index
        for item in document.predictions
        for register in item.registers
        if register.stability is not Stability.NOT_PINNED
    }
    return tuple(
        f"PCR {register.index}: {register.reason}"
        for register in prediction.registers
        if register.stability is Stability.NOT_PINNED and register.index in pinned
    )


def _predict(
    folder: Path, launch: Launch, *, tools: Tools, store: Store, profiles: tuple[FirmwareProfile, ...]
) -> Prediction:
    table = read_partition_table(folder / "disk.raw")
    return predict_launch(
        launch,
        uki=(folder / "uki.efi").read_bytes(),
        disk=table,
        tools=tools,
        store=store,
        profiles=profiles,
    )


def _boot(
    folder: Path,
    manifest: Manifest,
    launch: Launch,
    trial: Trial,
    nonce: bytes,
    *,
    tools: Tools,
    reporter: Reporter,
) -> BootResult:
    port = manifest.variables.get("evidence_port")
    return boot_session(
        tools,
        launch.firmware,
        launch.machine,
        launch.boot,
        folder / "disk.raw",
        folder / "uki.efi",
        nonce=nonce,
        timeout=DEFAULT_TIMEOUT if trial.timeout is None else trial.timeout,
        reporter=reporter,
        console_log=trial.console_log,
        transport=trial.transport,
        port=port if isinstance(port, int) else EVIDENCE_PORT,
        debug=trial.debug,
    )
