"""Lists of names in messages."""

from collections.abc import Iterable


def first_names(names: Iterable[object], most: int = 5, *, count: int | None = None) -> str:
    """The first few of some names, as `a, b, c and 5 more`; `none` where there are none.

    Args:
        names: all of them, or the first ones.
        most: how many are written out.
        count: how many there are in all; by default as many as `names` holds.
    """
    listed = [str(name) for name in names]
    more = (len(listed) if count is None else count) - min(most, len(listed))
    return (", ".join(listed[:most]) or "none") + (f" and {more} more" if more > 0 else "")
