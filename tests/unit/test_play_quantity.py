from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirespeed.errors import Error
from wirespeed.play import quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("128Mi", 128 << 20),
        ("1.5Gi", 1610612736),
        ("500m", Decimal("0.5")),
        ("2k", 2000),
        ("1e3", 1000),
        ("2E", 2 * 10**18),
        ("2E2", 200),
        (".5", Decimal("0.5")),
        (4, 4),
        (0.25, Decimal("0.25")),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: object, number: object) -> None:
    assert quantity.parse(text) == number


@pytest.mark.parametrize("value", ["", "Mi", "1MB", "1 Gi", "0x10", "one", True, None, ["1"], "1Mi1", "१"])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(Error, match="expected a quantity like"):
        quantity.parse(value)


@pytest.mark.parametrize("value", ["0.5", "100m", "-1", -2])
def test_what_can_only_be_counted_is_whole(value: object) -> None:
    with pytest.raises(Error, match="expected a whole number from 0"):
        quantity.whole_number(value)


@given(st.integers(0, 2**60))
def test_a_number_and_its_milli_form_are_the_same(number: int) -> None:
    assert (
        quantity.whole_number(number)
        == quantity.whole_number(str(number))
        == quantity.whole_number(f"{number}000m")
    )


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        quantity.parse(text)
    except Error as error:
        assert "expected a quantity" in error.msg
