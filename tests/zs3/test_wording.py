"""Messages name a few things and count the rest."""

import pytest

from zs3.wording import first_names


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        ([], None, "none"),
        (["a"], None, "a"),
        (["a", "b"], None, "a, b"),
        (["a", "b", "c", "d"], None, "a, b and 2 more"),
        (["a", "b"], 9, "a, b and 7 more"),
        (iter([1, 2, 3]), None, "1, 2 and 1 more"),
    ],
)
def test_two_names_are_written_out_and_the_others_counted(names, count, expected):
    assert first_names(names, 2, count=count) == expected
