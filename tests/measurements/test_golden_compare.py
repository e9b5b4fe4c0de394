from dataclasses import replace
from datetime import timedelta

from attester import Machine, document, other_shape, prediction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import golden
from measurements.events import (
    Digest,
    EventType,
    HashAlgorithm,
    Sequence,
    Stability,
)


def test_equal_documents_have_no_difference():
    assert golden.compare(document(), document()) == ()


def test_compare_names_the_register_and_the_guilty_input():
    machine = Machine()
    machine.change(machine.find(11, EventType.IPL, 5), b"another command line")
    differences = golden.compare(document(prediction()), document(prediction(machine)))
    assert [(item.where, item.cause) for item in differences] == [
        ("qemu-vtpm/ovmf-2025.02/disk/2-vcpus/2048-mib: PCR 11", "uki .cmdline")
    ]
    expected = Digest.of(HashAlgorithm.SHA256, b"another command line").hex()
    assert differences[0].new == f"sha256 {expected}"
    assert "PCR 11" in str(differences[0])
    assert "because of uki .cmdline" in str(differences[0])


def test_compare_lists_inputs_outputs_and_shapes():
    old = document(prediction())
    new = replace(
        document(prediction(), other_shape(), svn=4),
        inputs=golden.Inputs(recipe="99" * 32, lock="22" * 32),
        outputs=(replace(old.outputs[0], sha256="77" * 32), replace(old.outputs[1], size=1)),
        validity=golden.Validity(
            not_before=old.validity.not_before, not_after=old.validity.not_after + timedelta(days=1)
        ),
    )
    found = [(item.where, item.what) for item in golden.compare(old, new)]
    assert found == [
        ("image", "svn"),
        ("validity", "not_after"),
        ("inputs", "recipe sha256"),
        ("output disk.raw", "sha256"),
        ("output uki.efi", "size"),
        (other_shape().shape.name, "launch shape"),
    ]


def test_compare_sees_added_events_labels_and_stability():
    old = prediction()
    extra = replace(old.registers[4].alternatives[0].events[0], description="another", cause="boot order")
    usual = old.registers[4].alternatives[0]
    moved = replace(old.registers[4], alternatives=(Sequence(label="usual", events=(*usual.events, extra)),))
    five = replace(
        old.registers[5], alternatives=old.registers[5].alternatives[:1], stability=Stability.FIRMWARE
    )
    new = replace(old, registers=(*old.registers[:4], moved, five, *old.registers[6:]))
    found = golden.compare(document(old), document(new))
    assert [(item.where[-5:], item.what, item.cause) for item in found] == [
        ("PCR 4", "event 'another'", "boot order"),
        ("PCR 5", "stability", None),
        ("PCR 5", "alternative 'ExitBootServices twice'", None),
    ]
    assert found[0].old is None


@hypothesis_settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2),
    st.integers(0, 15),
    st.integers(0, 40),
    st.sampled_from(["cause", "description", "data"]),
)
def test_two_unequal_documents_always_differ(alternative, index, number, name):
    register = prediction().registers[index]
    courses = list(register.alternatives)
    if alternative >= len(courses) or number >= len(courses[alternative].events):
        return
    events = list(courses[alternative].events)
    events[number] = replace(events[number], **{name: b"other" if name == "data" else "other"})
    courses[alternative] = Sequence(label=courses[alternative].label, events=tuple(events))
    registers = list(prediction().registers)
    registers[index] = replace(register, alternatives=tuple(courses))
    assert golden.compare(document(prediction()), document(replace(prediction(), registers=tuple(registers))))


def test_launch_whose_input_changed_is_compared_with_its_predecessor():
    """Its name changes with the input; what the input moved is told all the same."""
    found = golden.compare(document(prediction()), document(other_shape()))
    assert [(item.what, item.old, item.new) for item in found if item.cause is None] == [("vcpus", "2", "4")]
    (move,) = golden.moves(found)
    assert (move.cause, dict(move.registers)) == ("VM shape", {"PCR 1": (other_shape().shape.name,)})


def test_launches_with_much_else_changed_come_and_go():
    old = prediction()
    shape = replace(old.shape, vcpus=4, memory_mib=4096, machine="pc-q35-9.2")
    found = golden.compare(document(old), document(replace(old, shape=shape)))
    assert [(item.what, item.old, item.new) for item in found] == [
        ("launch shape", "present", None),
        ("launch shape", None, "present"),
    ]


def test_launches_are_paired_with_the_nearest():
    def shaped(vcpus, memory_mib):
        return replace(prediction(), shape=replace(prediction().shape, vcpus=vcpus, memory_mib=memory_mib))

    old = document(shaped(2, 2048), shaped(4, 4096))
    new = document(shaped(2, 8192), shaped(8, 4096), shaped(16, 4096))
    found = golden.compare(old, new)
    assert [(item.where.rpartition("disk/")[2], item.what, item.old, item.new) for item in found] == [
        ("2-vcpus/8192-mib", "memory_mib", "2048", "8192"),
        ("8-vcpus/4096-mib", "vcpus", "4", "8"),
        ("16-vcpus/4096-mib", "launch shape", None, "present"),
    ]


def test_another_text_of_an_event_moves_no_register():
    old = prediction()
    usual = old.registers[4].alternatives[0]
    told = replace(usual, events=(replace(usual.events[0], description="in other words"), *usual.events[1:]))
    new = replace(
        old,
        registers=(*old.registers[:4], replace(old.registers[4], alternatives=(told,)), *old.registers[5:]),
    )
    found = golden.compare(document(old), document(new))
    assert "its text only" in found[0].what and golden.moves(found) == ()
