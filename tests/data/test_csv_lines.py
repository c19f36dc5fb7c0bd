from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssrseg.data.csv_lines import csv_line, csv_rows
from ssrseg.errors import DataError


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-dog", "'-dog"),
        ("@sum", "'@sum"),
        ("\tcat", "'\tcat"),
        ("\rcat", '"\'\rcat"'),
        ("＝1+1", "'＝1+1"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("cat;=cmd();dog", "cat;'=cmd();dog"),
        ("cat;'-1;@x", "cat;''-1;'@x"),
        ("cat\t+1", "cat\t'+1"),
        ("-1;2", "'-1;2"),
        ("a-b;c=d", "a-b;c=d"),
        (-0.25, "-0.25"),
        ("+1e-3", "+1e-3"),
        ("", ""),
        ('a "b", c', '"a ""b"", c"'),
    ],
)
def test_a_cell_that_a_spreadsheet_would_calculate(cell: object, written: str) -> None:
    assert csv_line(["dog", cell]) == f"dog,{written}\n"
    assert csv_rows(csv_line(["dog", cell])) == [["dog", str(cell)]]


@given(st.lists(st.lists(st.text() | st.text("a;'=-+@1\t\r\n"), min_size=2)))
def test_what_is_written_is_read_back(rows: list[list[str]]) -> None:
    text = "".join(map(csv_line, rows))
    assert csv_rows(text) == rows
    for row in csv.reader(io.StringIO(text, newline="")):
        for cell in row:
            for part in re.split("[;\t\r\n]", cell):  # as other spreadsheets split
                assert part[:1] not in tuple("=+-@") or float(cell) is not None


@given(st.text("\",\r\n='a\0"))
def test_any_text_is_rows_or_our_own_error(text: str) -> None:
    csv_rows(text)


def test_a_lone_quotation_mark() -> None:
    with pytest.raises(DataError, match="line 32769: field larger"):
        csv_rows('a,"b\n' + "c,d\n" * 40_000)
