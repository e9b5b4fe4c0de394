"""Reference integrity manifests: NVIDIA's own, and what is refused although it is signed."""

from __future__ import annotations

import contextlib
import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from gpu_evidence import (
    DRIVER_VALUES,
    MANIFESTS,
    RIMS,
    SHA384,
    SWID,
    THEN,
    Authority,
    certificate,
    manifest,
    signed,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from measurements.errors import FormatError, MeasurementError, SignatureError
from measurements.gpu.certificates import DEVICE_ROOT, RIM_ROOT
from measurements.gpu.rim import RimKind, open_rim

VALUE = "ab" * 48
SMALL = {7: [VALUE]}


def opened(data, **options):
    return open_rim(data, **({"root": MANIFESTS.root, "at": THEN} | options))


def resources(root):
    return [element for element in root.iter() if element.tag == f"{{{SWID}}}Resource"]


@pytest.mark.parametrize(
    ("name", "kind", "version", "active"),
    [
        # Counted with grep in the files.
        ("driver-545.00.swidtag", RimKind.DRIVER, "545.00", [7, *range(21, 41)]),
        ("vbios-96.00.5E.00.01.swidtag", RimKind.VBIOS, "96.00.5E.00.01", [*range(7), *range(8, 13)]),
        ("vbios-96.00.6D.00.29.swidtag", RimKind.VBIOS, "96.00.6D.00.29", [*range(7), *range(8, 13)]),
    ],
)
def test_manifests_of_nvidia(name, kind, version, active):
    rim = open_rim(RIMS[name], root=RIM_ROOT, at=THEN)
    assert (rim.kind, rim.version, rim.product) == (kind, version, "GH100")
    assert sorted(rim.measurements) == list(range(64)) and sorted(rim.active) == active


def test_values_of_a_manifest_of_nvidia():
    # Read in the file.
    rim = open_rim(RIMS["driver-545.00.swidtag"], root=RIM_ROOT, at=THEN)
    assert rim.tag_id.startswith("f0d3a263ab9ef4b9") and len(rim.tag_id) == 96
    assert rim.measurements[35].name == "HashedMeasurement_35_GSP"
    assert [value.hex()[:8] for value in rim.measurements[35].values] == ["26114833", "c0962ed9"]
    assert rim.measurements[0].values == (bytes(48),) and not rim.measurements[0].active


@pytest.mark.parametrize("year", [2022, 2026, 2060])
def test_certificates_of_another_time(year):
    with pytest.raises(SignatureError, match="is valid from"):
        open_rim(RIMS["driver-545.00.swidtag"], root=RIM_ROOT, at=THEN.replace(year=year))


def test_signers_of_others():
    data = RIMS["driver-545.00.swidtag"]
    for root in (DEVICE_ROOT, MANIFESTS.root):
        with pytest.raises(SignatureError, match="issued by none"):
            open_rim(data, root=root, at=THEN)
    with pytest.raises(SignatureError, match="issued by none"):
        opened(signed(manifest("550.1", SMALL)), root=RIM_ROOT)
    # An authority's name is not its key.
    other, key = Authority("Manifests"), ec.generate_private_key(ec.SECP384R1())
    forged = signed(
        manifest("550.1", SMALL),
        key=key,
        signer=other.issue("Signer", key),
        authorities=(other.issuer, MANIFESTS.root),
    )
    with pytest.raises(SignatureError, match="certificate chain"):
        opened(forged)
    # Nor does a certificate that is one's own certify.
    alone = signed(manifest("550.1", SMALL), key=key, signer=certificate("Signer", key), authorities=())
    with pytest.raises(SignatureError, match="issued by none"):
        opened(alone)


def test_a_manifest_of_our_own():
    rim = opened(signed(manifest("550.90.07", DRIVER_VALUES, inactive={60: [VALUE]})))
    assert sorted(rim.active) == sorted(DRIVER_VALUES) and not rim.measurements[60].active
    for index, values in DRIVER_VALUES.items():
        assert rim.measurements[index].values == tuple(map(bytes.fromhex, values))


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("550.90.07", RimKind.DRIVER),
        ("545.00", RimKind.DRIVER),
        ("595.91.07", RimKind.DRIVER),
        ("96.00.9f.00.01", RimKind.VBIOS),
        ("97.00.E4.00.1E", RimKind.VBIOS),
        ("1.0", None),
        ("550", None),
        ("96.00.9F.00", None),
        ("96.00.9G.00.01", None),
        ("५५०.90", None),
        ("", None),
    ],
)
def test_versions_say_whose_manifest_it_is(version, kind):
    data = signed(manifest(version, SMALL))
    if kind is None:
        with pytest.raises(FormatError):
            opened(data)
    else:
        rim = opened(data)
        assert rim.kind is kind and rim.version == version.upper()


def _set(name, value):
    return lambda root: resources(root)[0].set(name, value)


def _unset(name):
    return lambda root: resources(root)[0].attrib.pop(name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("active", "true"), "expected True or False"),
        (_unset("active"), "has no active"),
        (_set("type", "File"), "no measurement"),
        (_set("index", "-1"), "expected a number"),
        (_set("index", "256"), "expected a number"),
        (_set("index", "07"), "expected a number"),
        (_set("index", "٧"), "expected a number"),
        (_set("alternatives", "0"), "has no value"),
        (_set("alternatives", "2"), "expected 2"),
        (_set("alternatives", "99"), "expected a number"),
        (_set("size", "32"), "another size"),
        (_set(f"{{{SHA384}}}Hash1", VALUE), "expected 1"),
        (_set(f"{{{SHA384}}}Hash0", VALUE[2:]), "expected 1"),
        (_set(f"{{{SHA384}}}Hash0", "g" + VALUE[1:]), "expected 1"),
        (_unset(f"{{{SHA384}}}Hash0"), "expected 1"),
        (_set("name", ""), "has no name"),
        (_set("name", "x" * 129), "has no name"),
        (lambda root: resources(root)[1].set("index", "7"), "twice"),
        (lambda root: [each.set("active", "False") for each in resources(root)], "accept everything"),
        (lambda root: resources(root)[0].getparent().remove(resources(root)[0]), None),
        (lambda root: setattr(resources(root)[0], "tag", f"{{{SWID}}}File"), "resources alone"),
        (lambda root: setattr(resources(root)[0], "tag", "{urn:x}Resource"), "resources alone"),
        (lambda root: root.remove(root[1]), "0 elements Meta"),
        (lambda root: root.remove(root[2]), "0 elements Payload"),
        (lambda root: root.append(root[2].__copy__()), "2 elements Payload"),
        (lambda root: root.attrib.pop("tagId"), "has no tagId"),
        (lambda root: root[1].attrib.pop("product"), "has no product"),
        (lambda root: root[1].attrib.pop("colloquialVersion"), "has no colloquialVersion"),
        (lambda root: setattr(root, "tag", "{urn:x}SoftwareIdentity"), "expected SoftwareIdentity"),
    ],
)
def test_signed_and_refused(change, said):
    data = signed(manifest("550.1", {7: [VALUE], 8: [VALUE]}, change=change))
    if said is None:
        opened(data)
    else:
        with pytest.raises(FormatError, match=said):
            opened(data)


def test_an_expired_signer():
    key = ec.generate_private_key(ec.SECP384R1())
    data = signed(manifest("550.1", SMALL), key=key, signer=MANIFESTS.issue("Signer", key, days=30))
    opened(data)
    with pytest.raises(SignatureError, match="is valid from"):
        opened(data, at=THEN + datetime.timedelta(days=31))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_nothing_but_our_errors(data):
    mutated = bytearray(RIMS["vbios-96.00.5E.00.01.swidtag"])
    for _ in range(data.draw(st.integers(0, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    with contextlib.suppress(MeasurementError):
        open_rim(data.draw(st.sampled_from([bytes(mutated), cut])), root=RIM_ROOT, at=THEN)
