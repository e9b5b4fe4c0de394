"""A key set's public half, read back from its signed updates."""

import contextlib
import datetime

import pe_images
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import ImageError
from builder.image.secureboot import keyset
from builder.image.secureboot.authenticode import sign_pe
from builder.image.secureboot.enrolment import check_allowed, read_enrolment
from builder.image.secureboot.variables import VENDORS, forbidding
from measurements.errors import FormatError, LimitError
from measurements.events import HashAlgorithm
from measurements.formats import pe

DAY = datetime.date(2026, 11, 22)


@pytest.fixture(scope="module")
def updates(keys, enrolment):
    return enrolment.updates(keys.platform_key, keys.key_exchange_key)


def test_public_files_follow_from_the_updates_alone(keys, enrolment, updates):
    public = read_enrolment(updates)
    assert public.enrolment == enrolment
    assert keyset.published_files(public.enrolment, public.updates) == keyset.public_files(keys, enrolment)


def test_updates_of_two_key_sets_are_refused(enrolment, other_keys, updates):
    others = other_keys.enrolment(forbidden=enrolment.forbidden, day=DAY)
    foreign = others.updates(other_keys.platform_key, other_keys.key_exchange_key)
    for name in ("KEK", "db", "dbx"):
        with pytest.raises(ImageError, match=f"{name}.auth is not of the same key set"):
            read_enrolment({**updates, name: foreign[name]})


def test_updates_of_another_form_are_refused(vector, keys, enrolment, updates):
    for name in VENDORS:
        swapped = {**updates, name: updates["dbx" if name != "dbx" else "db"]}
        with pytest.raises(ImageError, match=f"{name}.auth holds more than"):
            read_enrolment(swapped)
    tomorrow = forbidding(enrolment.owner, enrolment.forbidden, DAY + datetime.timedelta(days=1))
    with pytest.raises(ImageError, match="one time stamp"):
        read_enrolment({**updates, "dbx": tomorrow.update(keys.key_exchange_key)})


def test_who_may_start(keys, other_keys, enrolment, updates):
    image = pe_images.image()
    public = read_enrolment(updates)
    signed, _ = sign_pe(image, keys.image_key)
    check_allowed(signed, public)
    foreign, _ = sign_pe(image, other_keys.image_key)
    with pytest.raises(ImageError, match="none of its signatures chains to a certificate in db"):
        check_allowed(foreign, public)
    with pytest.raises(ImageError, match="not signed"):
        check_allowed(image, public)
    digest = pe.parse(image).authenticode(HashAlgorithm.SHA256).value
    forbidding_it = keys.enrolment(forbidden=(digest,), day=DAY)
    revoked = read_enrolment(forbidding_it.updates(keys.platform_key, keys.key_exchange_key))
    with pytest.raises(ImageError, match="dbx lists its digest"):
        check_allowed(signed, revoked)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(VENDORS)),
    place=st.integers(0, 1 << 16),
    change=st.integers(1, 255),
    cut=st.integers(0, 1 << 12),
)
def test_mutated_updates_never_escape(updates, name, place, change, cut):
    mutated = bytearray(updates[name])
    mutated[place % len(mutated)] ^= change
    for content in (bytes(mutated), updates[name][: cut % len(mutated)]):
        with contextlib.suppress(FormatError, LimitError, ImageError):
            read_enrolment({**updates, name: content})
