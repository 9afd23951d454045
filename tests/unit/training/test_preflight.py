"""Which lost rows speak against training."""

import pytest

from yangtuo.config.choices import BadRows
from yangtuo.data.encoding_options import NO_ROOM, TOO_LONG
from yangtuo.training import preflight


def found(num_bad, reasons, bad_rows=BadRows.DROP):
    train = {"rows_read": 100, "rows_that_cannot_be_used": num_bad, "rows_dropped": reasons}
    return [(one.is_bad, one.text) for one in preflight._lost_findings(train, bad_rows, "PLACE")]


def test_rows_that_were_to_be_dropped_are_a_note():
    ((is_bad, text),) = found(20, {"the template refuses it": 10})
    assert not is_bad
    assert text.startswith("30 of 100 rows")
    assert "--bad_rows drop" in text
    assert "other 70" in text


@pytest.mark.parametrize("bad_rows", BadRows)
@pytest.mark.parametrize("reason", [TOO_LONG, NO_ROOM])
def test_rows_lost_to_their_length_are_a_reason_whatever_was_asked(bad_rows, reason):
    ((is_bad, text),) = found(0, {reason: 7}, bad_rows)
    assert is_bad
    assert "7 of 100 rows are lost (7%); PLACE" in text


def test_both_are_told_apart():
    bad, note = found(20, {TOO_LONG: 10})
    assert (bad[0], note[0]) == (True, False)
    assert "10 of 100" in bad[1]
    assert "20 of 100" in note[1]
    assert "other 70" in note[1]


def test_a_few_rows_are_nothing_to_look_at():
    assert found(5, {TOO_LONG: 5}) == []
    assert found(5, {TOO_LONG: 6})[0][0]
