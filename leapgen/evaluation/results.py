"""What an experiment comes to: a table of estimates, and the paper's numbers beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from leapgen.evaluation.metrics import Estimate

Point: TypeAlias = "tuple[str, str, str, float | None]"  # an arm, and its row's key, label and x


@dataclass(frozen=True)
class Column:
    """What is measured. ``unit``: ``%`` and ``points`` of values that are fractions, or the name of what is counted."""

    name: str
    unit: str = "%"

    @property
    def scale(self) -> float:
        return 100.0 if self.unit in ("%", "points") else 1.0

    @property
    def heading(self) -> str:
        return self.name if self.unit in self.name else f"{self.name} ({self.unit})"


@dataclass(frozen=True)
class Row:
    """One way to answer, or one value of what is swept.

    Args:
        key: as the paper's numbers name it.
        label: as it is shown.
        values: by column's name; a column may be missing.
        x: where it stands, if the rows are a scale.
    """

    key: str
    label: str
    values: Mapping[str, Estimate]
    x: float | None = None


@dataclass(frozen=True)
class Table:
    """An experiment's result. ``notes`` are sentences that a reader needs to read it right."""

    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    along: str = ""  # what x is, with its unit

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    def to_dict(self, published: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Plain values, in the units of the columns, with the paper's numbers beside."""
        def shown(row: Row, column: Column) -> dict[str, Any]:
            one, paper = row.values.get(column.name), published.get(column.name, {}).get(row.key)
            numbers = {} if one is None else {name: round(column.scale * getattr(one, name), 4)
                                              for name in ("mean", "low", "high")}
            return numbers if paper is None else {**numbers, "paper": paper}

        return {"columns": [vars(column) for column in self.columns], "along": self.along, "notes": list(self.notes),
                "rows": [{"key": row.key, "label": row.label, **({} if row.x is None else {"x": row.x}),
                          "values": {column.name: shown(row, column) for column in self.columns}} for row in self.rows]}


@dataclass(frozen=True)
class Result:
    """A table and the numbers that the paper prints for it: what is drawn, printed and saved.

    Args:
        source: where in the paper.
        title: what was asked.
        published: its numbers, by column and row's key.
        whose: of which model on which data set these are.
    """

    name: str
    source: str
    title: str
    table: Table
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    whose: str = ""

    def unmatched(self) -> dict[str, dict[str, float]]:
        """What the paper prints and no row stands for."""
        names, keys = {column.name for column in self.table.columns}, {row.key for row in self.table.rows}
        left = {column: {key: value for key, value in numbers.items() if column not in names or key not in keys}
                for column, numbers in self.published.items()}
        return {column: numbers for column, numbers in left.items() if numbers}

    def to_dict(self) -> dict[str, Any]:
        return {"experiment": self.name, "source": self.source, "title": self.title, "paper": self.whose,
                **self.table.to_dict(self.published), "paper_also": self.unmatched()}


def rows_of(points: Iterable[Point], columns: Mapping[str, Callable[[str], Estimate | None]]) -> list[Row]:
    """A row for each point of which anything was measured; ``columns`` measure an arm."""
    rows = []
    for arm, key, label, x in points:
        values = {name: value for name, measure in columns.items() if (value := measure(arm)) is not None}
        if values:
            rows.append(Row(key, label, values, x))
    return rows
