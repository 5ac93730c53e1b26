"""A part of the report: a table, what it means, and its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table


@dataclass(frozen=True)
class Section:
    title: str
    note: str  # a sentence or two above the table
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    plots: Mapping[str, str] = field(default_factory=dict)  # name of a file → SVG

    def markdown(self) -> str:
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        images = "".join(f"\n![{name.removesuffix('.svg')}]({name})\n" for name in self.plots)
        return f"## {self.title}\n\n{self.note}\n\n{table}{images}"

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note)
        for i, column in enumerate(self.columns):
            table.add_column(column, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table
