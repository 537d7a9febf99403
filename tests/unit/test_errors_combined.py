"""Several errors as one: its message, its hint, and its CNI code."""

from __future__ import annotations

from wirespeed.cni.errors import Code, NotUndoneError, PluginError, code_of
from wirespeed.errors import Error, Kind, combine, flatten

FIRST = PluginError(999, "no room").within("plugin a")
SECOND = Error(Kind.IO, "disk full", where="plugin b")


def test_several_errors_have_the_code_of_the_first() -> None:
    assert code_of(combine([FIRST, SECOND])) == 999
    assert code_of(combine([SECOND, FIRST])) == Code.IO_FAILURE
    assert code_of(combine([FIRST, SECOND]).within("network x")) == 999
    assert code_of(combine([FIRST, SECOND]).of_kind(Kind.POLICY)) == Code.POLICY


def test_a_hint_for_several_errors_is_told_at_their_end() -> None:
    advised = combine([FIRST, SECOND]).with_hint("look into the log")
    assert advised.msg == "plugin a: no room; also plugin b: disk full; look into the log"


def test_an_error_that_could_not_be_undone_says_both() -> None:
    both = NotUndoneError(FIRST, SECOND).within("pod default/web")
    assert both.msg == "pod default/web: plugin a: no room; undoing it failed: plugin b: disk full"
    assert (both.kind, code_of(both)) == (FIRST.kind, 999)
    assert isinstance(both, NotUndoneError)
    assert [each.msg for each in flatten(both)] == [
        "pod default/web: plugin a: no room",
        "pod default/web: plugin b: disk full",
    ]
