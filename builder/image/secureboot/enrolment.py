"""The public half of a key set, read back from its signed updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from cryptography import x509

from builder.errors import ImageError
from builder.image.secureboot.variables import (
    VENDORS,
    AuthenticatedVariable,
    Enrolment,
    read_update,
)
from measurements.chains import load_certificate
from measurements.errors import FormatError, NotPredictableError
from measurements.formats import pe
from measurements.formats.efivar import CERT_SHA256, CERT_X509, Signature, parse_signature_lists
from measurements.tpm.authority import authorise


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicEnrolment:
    """What a key set enrols, without any of its keys.

    Attributes:
        enrolment: certificates and forbidden digests.
        variables: PK, KEK, db and dbx, in this order.
        updates: the signed update of each, by its name.
    """

    enrolment: Enrolment
    variables: tuple[AuthenticatedVariable, ...]
    updates: Mapping[str, bytes] = field(repr=False)

    def variable(self, name: str) -> AuthenticatedVariable:
        """Return "PK", "KEK", "db" or "dbx"."""
        return next(variable for variable in self.variables if variable.name == name)


def read_enrolment(updates: Mapping[str, bytes]) -> PublicEnrolment:
    """Read what `keyset.public_files` wrote.

    Args:
        updates: ``PK``, ``KEK``, ``db`` and ``dbx``: the contents of ``NAME.auth``. Their signatures are not
            judged: firmware does that.

    Raises:
        ImageError: they are not the updates of one key set.
        FormatError: one is malformed.
    """
    variables = tuple(read_update(name, updates[name]) for name in VENDORS)
    contents = {variable.name: _signatures(variable) for variable in variables}
    (platform_key, *others), exchange = contents["PK"], contents["KEK"]
    if others or len(exchange) != 1:
        raise ImageError(
            f"{1 + len(others)} certificates in PK and {len(exchange)} in KEK: expected one in each, as "
            "goldsmith keys make writes them"
        )
    enrolment = Enrolment(
        owner=platform_key.owner,
        platform_key=_certificate("PK", platform_key),
        key_exchange_key=_certificate("KEK", exchange[0]),
        allowed=tuple(_certificate("db", each) for each in contents["db"]),
        forbidden=tuple(each.data for each in contents["dbx"]),
        day=_day(variables[0].time),
    )
    for wanted, variable in zip(enrolment.variables(), variables, strict=True):
        if wanted != variable:
            raise ImageError(
                f"{variable.name}.auth is not of the same key set as PK.auth, or not of the form that goldsmith "
                "keys make writes: one owner and one time stamp, certificates in PK, KEK and db, SHA-256 digests "
                "in dbx"
            )
    return PublicEnrolment(enrolment=enrolment, variables=variables, updates=dict(updates))


def check_allowed(image: bytes, enrolment: PublicEnrolment) -> None:
    """Make sure that firmware with this enrolment starts a signed image.

    Raises:
        ImageError: it would not; the message says which rule refuses it.
        FormatError: the image is no PE image.
    """
    db, dbx = enrolment.variable("db").data, enrolment.variable("dbx").data
    try:
        authorise(pe.parse(image), db, dbx)
    except NotPredictableError as error:
        raise ImageError(
            f"{error}", hint="sign with the key whose certificate is in db, or take its enrolment"
        ) from error


def _signatures(variable: AuthenticatedVariable) -> tuple[Signature, ...]:
    kind = CERT_SHA256 if variable.name == "dbx" else CERT_X509
    lists = parse_signature_lists(variable.data)
    if any(each.type != kind for each in lists):
        raise ImageError(
            f"{variable.name}.auth holds more than "
            + ("SHA-256 digests" if kind == CERT_SHA256 else "certificates")
            + ": such enrolments are not published"
        )
    return tuple(entry for each in lists for entry in each.signatures)


def _certificate(name: str, entry: Signature) -> x509.Certificate:
    try:
        return load_certificate(entry.data)
    except FormatError as error:
        raise FormatError(f"{name}.auth: {error}") from error


def _day(time: bytes) -> date:
    try:
        return date(int.from_bytes(time[:2], "little"), time[2], time[3])
    except ValueError as error:
        raise FormatError(f"PK.auth: the time stamp {time.hex()} is no date") from error
