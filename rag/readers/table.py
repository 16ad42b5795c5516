"""Writes the rows of a table as lines that can be read alone, for a passage may hold one row and not the header."""

from __future__ import annotations

from collections.abc import Sequence

_LONG_HEADER = 120  # characters; to repeat more than that in every row would drown the row


def table_lines(rows: Sequence[Sequence[str]], has_header: bool) -> str:
    """One line for each row: "Country: Norway | Days: 28" with a header, else "Norway | 28". Empty rows are left out;
    a row that does not fit the header, as where cells are merged, is written without it."""
    filled = [row for row in rows if any(row)]
    names = filled[0] if filled else []
    if not has_header or len(filled) < 2 or sum(map(len, names)) > _LONG_HEADER:
        return "\n".join(map(_plain, filled))
    return "\n".join(_named(names, row) for row in filled[1:])


def _plain(row: Sequence[str]) -> str:
    return " | ".join(row)


def _named(names: Sequence[str], row: Sequence[str]) -> str:
    if len(row) != len(names):
        return _plain(row)
    pairs = zip(names, row, strict=True)
    return " | ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)
