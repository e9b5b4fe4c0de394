"""What an image contributes to every launch: its structure and its digests, worked out once.

A build predicts the same image for several machines; reading and hashing it is most of the work.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from measurements.events import Digest, Digests, HashAlgorithm
from measurements.formats import uki
from measurements.formats.pe import PeImage
from measurements.formats.uki import BootImage, ImageKind
from measurements.platforms.stubs import find_generation
from measurements.tpm import stub


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """One image and its digests, per bank.

    Attributes:
        image: the image that the firmware starts.
        kernel: the kernel inside a UKI; ``None`` for any other image.
        kernel_version: (major, minor) of the kernel that starts; ``None`` when it does not say.
        authenticode: of the image.
        kernel_authenticode: of the kernel inside; empty without one.
        sections: of each section's contents, by name.
        initrd: of the initrd that a known stub serves; ``None`` when there is none.
    """

    image: BootImage = field(repr=False)
    kernel: PeImage | None = field(repr=False)
    kernel_version: tuple[int, int] | None
    authenticode: Digests
    kernel_authenticode: Digests
    sections: Mapping[str, Digests]
    initrd: Digests | None


@functools.lru_cache(maxsize=2)
def examine_image(data: bytes, banks: tuple[HashAlgorithm, ...]) -> ImageFacts:
    """Parse and hash an image; a repeated call with the same bytes costs nothing.

    Raises:
        FormatError: no PE image that firmware would load.
        PredictionError: the image cannot boot.
    """
    image = uki.parse(data)
    kernel, version = None, None
    if image.kind is ImageKind.UKI:
        payload = image.data(".linux")
        kernel, version = uki.parse_kernel(payload), uki.kernel_version(payload)
    elif image.kind is ImageKind.LINUX:
        version = uki.kernel_version(data)
    known = find_generation(image.stub) is not None
    initrd = stub.initrd_chunks(image) if known else ()
    return ImageFacts(
        image=image,
        kernel=kernel,
        kernel_version=version,
        authenticode=image.image.authenticode_digests(banks),
        kernel_authenticode={} if kernel is None else kernel.authenticode_digests(banks),
        sections={name: _hash(image.chunks(name), banks) for name in image.sections},
        initrd=_hash(initrd, banks) if any(initrd) else None,
    )


def _hash(chunks: Iterable[bytes | memoryview], banks: Iterable[HashAlgorithm]) -> Digests:
    """Hash the concatenation of ``chunks`` in one pass for all banks, without joining them."""
    states = {bank: hashlib.new(bank.value, usedforsecurity=False) for bank in banks}
    for chunk in chunks:
        for state in states.values():
            state.update(chunk)
    return {bank: Digest(bank, state.digest()) for bank, state in states.items()}
