import contextlib
import copy
import json
from dataclasses import replace
from datetime import UTC, datetime

import jsonschema
import pytest
import rfc8785
from attester import BANKS, EPOCH, Machine, document, other_shape, prediction
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from measurements import golden, strictjson
from measurements.errors import FormatError, LimitError, MeasurementError
from measurements.events import (
    Event,
    EventType,
    HashAlgorithm,
    RegisterPrediction,
    Sequence,
    Stability,
    digests_of,
)
from measurements.golden import model
from measurements.moments import format_time, parse_time

VALUE = golden.to_value(document())
SCHEMA = jsonschema.Draft202012Validator(json.loads(golden.json_schema()))


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def test_both_forms_read_back_to_the_same_document():
    for form in (golden.to_canonical(document()), golden.to_pretty(document())):
        assert golden.parse(form) == document()


def test_canonical_form_is_the_canonical_form_of_the_pretty_one():
    # rfc8785 (Trail of Bits) over what the standard library reads
    assert rfc8785.dumps(json.loads(golden.to_pretty(document()))) == golden.to_canonical(document())


def test_predictions_survive_the_round_trip():
    assert golden.parse(golden.to_pretty(document())).predictions == (prediction(), other_shape())


def test_pretty_form_has_no_long_runs_of_lines():
    lines = golden.to_pretty(document()).decode().splitlines()
    assert max(map(len, lines)) < 2 * model.MAX_EVENT_DATA + 100
    assert not any(line.strip().rstrip(",").isdigit() for line in lines)  # arrays of numbers stay on one line


def test_shared_registers_are_written_once():
    identifiers = [item["id"] for item in VALUE["registers"]]
    # two shapes, 16 registers each, only PCR 1 differs
    assert identifiers == ["0.1", "1.1", "1.2", *(f"{index}.1" for index in range(2, 16))]
    assert VALUE["platforms"][0]["shapes"][1]["registers"][1] == "1.2"


def test_stated_values_are_the_folds():
    register = next(item for item in VALUE["registers"] if item["id"] == "11.1")
    for bank in BANKS:
        assert register["alternatives"][0]["values"][bank.value] == Machine().values(bank)[11].hex()


def test_nothing_depends_on_the_clock_or_the_order_given():
    assert golden.to_canonical(document(prediction(), other_shape())) == golden.to_canonical(document())
    with_outputs_reversed = golden.document_from(
        image=document().image,
        source_date_epoch=EPOCH,
        validity=document().validity,
        inputs=document().inputs,
        outputs=reversed(document().outputs),
        calculator=document().calculator,
        predictions=document().predictions,
    )
    assert with_outputs_reversed == document()


def test_large_event_data_stays_out_and_small_stays_in():
    def one(data):
        event = Event(
            register=0,
            type=EventType.SEPARATOR,
            digests=digests_of(data),
            description="d",
            cause="c",
            data=data,
        )
        register = RegisterPrediction(
            index=0, stability=Stability.IMAGE, alternatives=(Sequence(label="a", events=(event,)),)
        )
        return replace(prediction(), registers=(register,))

    limit = model.MAX_EVENT_DATA
    kept = document(one(bytes(limit))).predictions[0].registers[0].alternatives[0].events[0]
    dropped = document(one(bytes(limit + 1))).predictions[0].registers[0].alternatives[0].events[0]
    assert (kept.data, dropped.data) == (bytes(limit), None)
    assert dropped.digests == digests_of(bytes(limit + 1))


def test_validity_follows_the_locks_time():
    validity = golden.Validity.since(1_790_000_000, days=1)
    # date -u -d @1790000000 +%FT%TZ
    assert format_time(validity.not_before) == "2026-09-21T14:13:20Z"
    assert format_time(validity.not_after) == "2026-09-22T14:13:20Z"
    assert validity.contains(datetime(2026, 9, 22, 14, 13, 20, tzinfo=UTC))
    assert not validity.contains(datetime(2026, 9, 22, 14, 13, 21, tzinfo=UTC))
    with pytest.raises(FormatError):
        golden.Validity.since(1_790_000_000, days=10**7)
    with pytest.raises(FormatError):
        golden.Validity(not_before=validity.not_after, not_after=validity.not_before)


@pytest.mark.parametrize(
    "moment",
    [
        "2026-09-21 14:13:20Z",
        "2026-09-21T14:13:20+00:00",
        "2026-02-30T00:00:00Z",
        "2026-09-21T14:13:20.5Z",
        "",
    ],
)
def test_times_have_one_form(moment):
    with pytest.raises(FormatError):
        parse_time(moment)


def change(path, value):
    result = copy.deepcopy(VALUE)
    target = result
    for step in path[:-1]:
        target = target[step]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return result


# path, value (... deletes), whether JSON Schema can say it
BAD = [
    (["format"], "other", True),
    (["format_version"], 2, True),
    (["format_version"], True, True),
    (["comment"], "x", True),
    (["image", "svn"], ..., True),
    (["image", "svn"], -1, True),
    (["image", "svn"], "3", True),
    (["image", "svn"], True, True),
    (["image", "svn"], 1.5, True),
    (["image", "svn"], 2**53, True),
    (["image", "name"], "", True),
    (["image", "name"], "../etc", True),
    (["image", "name"], "a" * 256, True),
    (["image", "name"], "base\n", False),
    (["image", "extra"], 1, True),
    (["validity", "not_after"], "tomorrow", True),
    (["validity", "not_after"], "2026-02-30T00:00:00Z", False),
    (["validity", "not_after"], "2000-01-01T00:00:00Z", False),
    (["inputs", "recipe", "sha256"], "11" * 31, True),
    (["inputs", "recipe", "sha256"], "AA" * 32, True),
    (["outputs"], [], True),
    (["outputs", 0, "name"], "zzz", False),
    (["outputs", 1], VALUE["outputs"][0], False),
    (["banks"], ["sha1"], True),
    (["banks"], ["sha256", "sha1", "sha384"], False),
    (["banks"], ["sha1", "sha256", "md5"], True),
    (["banks"], ["sha256", "sha384"], False),
    (["platforms"], [], True),
    (["platforms", 0, "shapes", 0, "vcpus"], 0, True),
    (["platforms", 0, "shapes", 0, "vcpus"], 3, False),
    (["platforms", 0, "shapes", 0, "boot"], "floppy", True),
    (["platforms", 0, "shapes", 0, "secure_boot"], 0, True),
    (["platforms", 0, "shapes", 0, "name"], "other", False),
    (["platforms", 0, "shapes", 0, "registers", 0], "9.9", False),
    (["platforms", 0, "shapes", 0, "registers", 0], 7, True),
    (["platforms", 0, "shapes", 0, "registers"], ["0.1", "0.1"], True),
    (["platforms", 0, "shapes", 0, "registers"], ["1.1", "0.1"], False),
    (["platforms", 0, "shapes", 1], VALUE["platforms"][0]["shapes"][0], False),
    (["platforms", 0, "shapes", 1, "registers", 1], "1.1", False),  # 1.2 is then unused
    (["registers", 0, "id"], "0.2", False),
    (["registers", 0, "id"], "00.1", True),
    (["registers", 1], VALUE["registers"][0], False),
    (["registers", 0, "index"], 24, True),
    (["registers", 0, "index"], 1, False),
    (["registers", 0, "stability"], "sure", True),
    (["registers", 0, "alternatives"], [], True),
    (["registers", 0, "events", 0, "type"], "EV_NONSENSE", True),
    (["registers", 0, "events", 0, "type"], 8, True),
    (["registers", 0, "events", 0, "digests", "sha256"], "00" * 32, False),
    (["registers", 0, "events", 0, "digests", "sha256"], "00" * 31, True),
    (["registers", 0, "events", 0, "digests", "sha512"], "00" * 64, False),
    (["registers", 0, "events", 0, "data"], "0g", True),
    (["registers", 0, "events", 0, "data"], "00" * 1025, True),
    (["registers", 0, "events", 0, "cause"], "x" * 1025, True),
    (["registers", 0, "alternatives", 0, "values", "sha384"], "00" * 48, False),
    (["registers", 0, "alternatives", 0, "events"], [], False),
    (["registers", 0, "alternatives", 0, "events", 0], 4000, True),
    (["registers", 0, "alternatives", 0, "events", 0], -1, True),
    (["registers", 0, "alternatives", 0, "events", 0], False, True),
    (["registers", 11, "reason"], None, True),  # PCR 10 is not pinned and must say why
]


@pytest.mark.parametrize(("path", "value", "in_schema"), BAD, ids=lambda item: str(item)[:60])
def test_bad_documents_are_refused(path, value, in_schema):
    changed = change(path, value)
    with pytest.raises(FormatError):
        golden.parse(text(changed))
    if in_schema:
        assert not SCHEMA.is_valid(changed), "the schema accepts what it could refuse"


def test_the_schema_accepts_what_we_write():
    jsonschema.Draft202012Validator.check_schema(SCHEMA.schema)
    SCHEMA.validate(json.loads(golden.to_canonical(document())))
    SCHEMA.validate(json.loads(golden.to_pretty(document(prediction()))))


def test_the_schema_knows_every_event_type():
    names = SCHEMA.schema["$defs"]["event"]["properties"]["type"]["enum"]
    assert set(names) == {None, *(f"EV_{item.name}" for item in EventType)}


def test_register_value_that_is_not_the_fold_of_its_events_is_refused():
    with pytest.raises(FormatError, match="its events fold to"):
        golden.parse(text(change(["registers", 0, "alternatives", 0, "values", "sha256"], "ab" * 32)))


def test_doubled_event_is_refused():
    changed = copy.deepcopy(VALUE)
    register = changed["registers"][0]
    register["events"].append(register["events"][0])
    with pytest.raises(FormatError, match="tables"):
        golden.parse(text(changed))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xef\xbb\xbf{}",
        b'{"format":"goldsmith-golden","format":"goldsmith-golden"}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e3}',
        b'{"a":1.0}',
        b'{"a":-0}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"' + b'\\"' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:24]),
)
def test_json_that_is_not_strict_is_refused(data):
    with pytest.raises(FormatError):
        golden.parse(data)


def test_brackets_inside_strings_are_no_nesting():
    assert strictjson.loads(b'"' + b'[\\"{' * 50 + b'"', what="x", max_bytes=1000, max_depth=1) == '["{' * 50


def test_too_much_is_refused(monkeypatch):
    with pytest.raises(LimitError):
        golden.parse(b" " * (model.MAX_DOCUMENT_BYTES + 1))
    monkeypatch.setattr(model, "MAX_FOLDS", 10)
    with pytest.raises(LimitError, match="events to fold"):
        golden.parse(golden.to_canonical(document()))


def test_documents_that_contradict_themselves_cannot_be_made():
    with pytest.raises(FormatError, match="share one name"):
        document(prediction(), prediction())
    event = prediction().registers[0].alternatives[0].events[0]
    weak = replace(event, digests={HashAlgorithm.SHA1: event.digests[HashAlgorithm.SHA1]})
    register = replace(prediction().registers[0], alternatives=(Sequence(label="a", events=(weak,)),))
    with pytest.raises(FormatError, match="sha256 or sha384"):
        document(replace(prediction(), registers=(register,)))
    with pytest.raises(FormatError, match="same banks"):
        document(replace(prediction(), registers=(register, *prediction().registers[1:])))
    with pytest.raises(FormatError, match="another register"):
        document(replace(prediction(), registers=(replace(prediction().registers[0], index=9),)))


def test_texts_that_no_reader_takes_cannot_be_written():
    register = prediction().registers[0]
    long = replace(register, reason="x" * (model.MAX_TEXT + 1))
    with pytest.raises(LimitError, match="reason"):
        document(replace(prediction(), registers=(long, *prediction().registers[1:])))
    with pytest.raises(LimitError, match="memory_mib"):
        document(replace(prediction(), shape=replace(prediction().shape, memory_mib=0)))


CANONICAL = golden.to_canonical(document(prediction()))


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.data())
def test_mutated_documents_never_escape(data):
    mutated = bytearray(CANONICAL)
    for _ in range(data.draw(st.integers(1, 3))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    for candidate in (bytes(mutated), bytes(mutated[: data.draw(st.integers(0, len(mutated)))])):
        try:
            parsed = golden.parse(candidate)
        except MeasurementError:
            continue
        assert golden.parse(golden.to_canonical(parsed)) == parsed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@hypothesis_settings(max_examples=150, deadline=None)
@given(st.sampled_from([item[0] for item in BAD]), JSON)
def test_any_json_anywhere_never_escapes(path, value):
    with contextlib.suppress(FormatError):
        golden.parse(text(change(path, value)))
