from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssrseg.data.ignored_warnings import IgnoredWarnings


def test_warnings_are_ignored_inside_and_nowhere_else() -> None:
    quiet = IgnoredWarnings((DeprecationWarning, ""), (Warning, r"test_\w+$"))
    before = list(warnings.filters)
    with quiet:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("of this module", stacklevel=1)
        with pytest.raises(UserWarning), IgnoredWarnings((DeprecationWarning, "")):
            warnings.warn_explicit("of another", UserWarning, "other.py", 1, module="other")
    assert list(warnings.filters) == before
    with pytest.raises(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_the_first_one_in_may_be_the_first_one_out() -> None:
    quiet = IgnoredWarnings((DeprecationWarning, ""))
    before = list(warnings.filters)
    second_is_in, first_is_out = threading.Event(), threading.Event()

    def first() -> None:
        with quiet:
            assert second_is_in.wait(10)
        first_is_out.set()

    def second() -> None:
        with quiet:
            second_is_in.set()
            assert first_is_out.wait(10)
            warnings.warn("still ignored", DeprecationWarning, stacklevel=1)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert list(warnings.filters) == before


def test_filters_of_others_stay() -> None:
    quiet = IgnoredWarnings((DeprecationWarning, ""))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # equal to ours
        theirs = list(warnings.filters)
        with quiet:
            assert len(warnings.filters) == len(theirs) + 1
            warnings.filterwarnings("ignore", "added meanwhile")
        assert warnings.filters[1:] == theirs
        assert warnings.filters[0][1].pattern == "added meanwhile"
    before = list(warnings.filters)
    with warnings.catch_warnings():
        quiet.__enter__()
    quiet.__exit__()  # after the list that has ours was put away
    assert list(warnings.filters) == before
