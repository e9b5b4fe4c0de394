"""systemd-stub's generations: what each release of the stub measures and hands to the kernel.

Read in the sources of systemd 252.39, 254.26, 255.4, 257.13, 259.5 and 262 (src/boot/efi/ or src/boot/: stub.c,
pe.c, linux.c, cpio.c, util.c, measure-smbios.c, console.c, boot-secret.c; src/fundamental/: tpm-pcr.h, uki.c)
and in NEWS of each release; held against boots of the stubs in ``StubGeneration.booted``. A release between
two generations, or after the last one, is not in the table: nothing that depends on the stub is predicted for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Section of the UKI, and its file below .extra in the archive that the stub makes of it.
Archive = tuple[str, str]

_SIGNATURE: Final[Archive] = (".pcrsig", "tpm2-pcr-signature.json")
_KEY: Final[Archive] = (".pcrpkey", "tpm2-pcr-public-key.pem")
_RELEASE: Final[Archive] = (".osrel", "os-release")
_PROFILE: Final[Archive] = (".profile", "profile")

# .pcrsig has a place in the order and is never measured: it signs what is.
_SECTIONS_252: Final = (".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb", ".pcrpkey")
_SECTIONS_254: Final = (*_SECTIONS_252[:-1], ".uname", ".sbat", ".pcrpkey")
_SECTIONS_257: Final = (
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey",
    ".profile", ".dtbauto", ".hwids",
)  # fmt: skip
_SECTIONS_258: Final = (*_SECTIONS_257, ".efifw")


@dataclass(frozen=True, slots=True, kw_only=True)
class StubGeneration:
    """Releases of systemd-stub that measure alike.

    Attributes:
        first: oldest release.
        last: newest release.
        booted: versions whose boots were compared with this entry, event by event.
        sections: measured into PCR 11, in this order, each if present.
        archives: sections that become cpio archives behind the initrd, in this order.
        mangles_both_ends: whether blanks at the start of ``.cmdline`` are dropped and 7f counts as blank; older
            stubs drop blanks at the end alone.
        survives_blank_command_line: whether a ``.cmdline`` of nothing but blanks has a defined outcome.
        loads_kernel: whether the kernel inside is started by the firmware's LoadImage, which measures it unless
            the stub's override of the Security2 protocol answers in its place; otherwise the stub enters it.
        measures_cc: whether sections are measured into RTMRs, through EFI_CC_MEASUREMENT_PROTOCOL.
        smbios_types: SMBIOS structures measured into PCR 1, in the table's order.
        appends_consoles: whether ``console=`` options for devices of the machine are appended to a command line
            that has none.
        boot_secret: whether a secret of this one machine goes into the initrd when the UKI lies on a file system.
    """

    first: int
    last: int
    booted: tuple[str, ...]
    sections: tuple[str, ...]
    archives: tuple[Archive, ...]
    mangles_both_ends: bool = True
    survives_blank_command_line: bool = True
    loads_kernel: bool
    measures_cc: bool = False
    smbios_types: tuple[int, ...] = ()
    appends_consoles: bool = False
    boot_secret: bool = False


GENERATIONS: Final[tuple[StubGeneration, ...]] = (
    StubGeneration(
        first=252,
        last=252,
        booted=("252.39-1~deb12u2",),
        sections=_SECTIONS_252,
        archives=(_SIGNATURE, _KEY),
        mangles_both_ends=False,
        loads_kernel=True,
    ),
    StubGeneration(
        first=254,
        last=254,
        booted=("254.26-1~bpo12+1",),
        sections=_SECTIONS_254,
        archives=(_SIGNATURE, _KEY),
        mangles_both_ends=False,
        loads_kernel=True,
    ),
    # util.c mangle_stub_cmdline skips blanks past the end of the string.
    StubGeneration(
        first=255,
        last=255,
        booted=("255.4-1ubuntu8.19",),
        sections=_SECTIONS_254,
        archives=(_SIGNATURE, _KEY),
        survives_blank_command_line=False,
        loads_kernel=True,
    ),
    StubGeneration(
        first=257,
        last=257,
        booted=("257.13-1~deb13u1",),
        sections=_SECTIONS_257,
        archives=(_SIGNATURE, _KEY, _RELEASE, _PROFILE),
        loads_kernel=True,
        measures_cc=True,
    ),
    # linux.c linux_exec maps and enters the kernel itself; NEWS of 258 adds .efifw, 259 and 260 nothing here.
    StubGeneration(
        first=258,
        last=260,
        booted=("259.9-0ubuntu0.1",),
        sections=_SECTIONS_258,
        archives=(_SIGNATURE, _KEY, _RELEASE, _PROFILE),
        loads_kernel=False,
        measures_cc=True,
    ),
    # NEWS of 261: SMBIOS into PCR 1, boot secret, serial console; 262 appends more than one console.
    StubGeneration(
        first=261,
        last=262,
        booted=("261.3-0ubuntu3", "262.1-1"),
        sections=_SECTIONS_258,
        archives=(_SIGNATURE, _KEY, _RELEASE, _PROFILE),
        loads_kernel=False,
        measures_cc=True,
        smbios_types=(1, 2, 11),
        appends_consoles=True,
        boot_secret=True,
    ),
)

#: Sections of which a UKI may hold several, one of them picked by the machine's hardware id (pe.c).
PICKED_BY_MACHINE: Final = (".dtbauto", ".efifw")


def find_generation(release: int | None) -> StubGeneration | None:
    """Return the generation of a release; ``None`` for one that the table does not know."""
    if release is None:
        return None
    return next((each for each in GENERATIONS if each.first <= release <= each.last), None)


def known_releases() -> str:
    """Return the table's releases for a message: ``252, 254-255, 257-262``."""
    ranges: list[tuple[int, int]] = []
    for each in GENERATIONS:
        if ranges and each.first == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], each.last)
        else:
            ranges.append((each.first, each.last))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
