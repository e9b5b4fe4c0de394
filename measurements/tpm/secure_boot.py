"""Secure Boot as the firmware finds it: its variables, whether it is on, and what allows the image to
start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from measurements.errors import NotPredictableError
from measurements.formats import varstore
from measurements.formats.efivar import GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE, Signature, Variable
from measurements.formats.uki import BootImage, ImageKind
from measurements.platforms.firmware import FirmwareProfile
from measurements.tpm.authority import authorise
from measurements.tpm.stub import require_generation

#: SecurityPkg/Include/Guid/AuthenticatedVariableFormat.h gEfiSecureBootEnableDisableGuid.
_SECURE_BOOT_ENABLE_GUID: Final = UUID("f0a30bc7-af08-4556-99c4-001009c93a44")
_SECURE_BOOT_ENABLE: Final = "SecureBootEnable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureBoot:
    """What Tcg2Dxe and DxeImageVerificationLib find.

    Attributes:
        enabled: whether images are verified; ``None`` when only a profile of the firmware could tell.
        variables: SecureBoot, PK, KEK, db, dbx and, if it exists, dbt, in measured order; ``None`` when the
            data of SecureBoot is not known.
        authorities: db entries that allowed an image to start, each once, in order.
        refusal: why the image is not known to be allowed; ``None`` when it is, or nothing is verified.
    """

    enabled: bool | None
    variables: tuple[Variable, ...] | None = field(repr=False)
    authorities: tuple[Signature, ...] = field(default=(), repr=False)
    refusal: str | None = None


def secure_boot_state(store: bytes | None, profile: FirmwareProfile | None, image: BootImage) -> SecureBoot:
    """Work out the state from the variable store (``None``: no variables) and the firmware's profile.

    Raises:
        FormatError: the store or a signature database in it is corrupt.
    """
    variables = {} if store is None else varstore.parse(store)

    def data(guid: UUID, name: str) -> bytes | None:
        return variables.get((guid, name))

    enrolled = bool(data(GLOBAL_VARIABLE, "PK"))
    switch = data(_SECURE_BOOT_ENABLE_GUID, _SECURE_BOOT_ENABLE)
    # SecurityPkg/Library/AuthVariableLib/AuthService.c InitializeSecureBootVariables... : user mode (a
    # platform key) turns verification on unless SecureBootEnable says 0. A build without that library never
    # verifies.
    enabled: bool | None = enrolled and switch != b"\0"
    if enabled and profile is None:
        enabled = None
    elif profile is not None and not profile.secure_boot:
        enabled = False
    measured = _measured_variables(variables, enabled, profile)
    if not enabled:
        return SecureBoot(enabled=enabled, variables=measured)
    database = data(IMAGE_SECURITY_DATABASE, "db") or b""
    forbidden = data(IMAGE_SECURITY_DATABASE, "dbx") or b""
    try:
        if image.kind is ImageKind.UKI:
            # Every stub in the table overrides the Security2 protocol or enters the kernel itself, so the
            # firmware does not verify the kernel inside.
            require_generation(image)
        found = authorise(image.image, database, forbidden)
    except NotPredictableError as error:
        return SecureBoot(enabled=True, variables=measured, refusal=str(error))
    return SecureBoot(enabled=True, variables=measured, authorities=(found,))


def _measured_variables(
    variables: varstore.Variables, enabled: bool | None, profile: FirmwareProfile | None
) -> tuple[Variable, ...] | None:
    # SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c mVariableType, ReadAndMeasureSecureVariable: order is the
    # specification.
    if enabled:
        state = b"\1"
    elif profile is not None:
        state = profile.secure_boot_unset
    else:
        return None
    measured = [Variable(guid=GLOBAL_VARIABLE, name="SecureBoot", data=state)]
    for guid, name in (
        (GLOBAL_VARIABLE, "PK"),
        (GLOBAL_VARIABLE, "KEK"),
        (IMAGE_SECURITY_DATABASE, "db"),
        (IMAGE_SECURITY_DATABASE, "dbx"),
    ):
        measured.append(Variable(guid=guid, name=name, data=variables.get((guid, name), b"")))
    timestamps = variables.get((IMAGE_SECURITY_DATABASE, "dbt"))
    if timestamps is not None:
        measured.append(Variable(guid=IMAGE_SECURITY_DATABASE, name="dbt", data=timestamps))
    return tuple(measured)
