"""The table of limits in docs/operate/limits.md. ``python -m tests.limits_table`` writes it anew from the code."""

from __future__ import annotations

from pinrec_core.limits import TABLE, Limit
from tests.import_graph import ROOT

PAGE = ROOT / "docs" / "operate" / "limits.md"
BEGIN, END = "<!-- limits -->", "<!-- end of limits -->"


def table() -> str:
    """One table for each group of ``TABLE``."""
    parts = []
    for group, limits in TABLE.items():
        rows = ["| field | of | at least | at most | why |", "| --- | --- | --- | --- | --- |"]
        for limit in limits:
            most = f"{limit.most:,}" if isinstance(limit, Limit) else limit.most
            fields = ", ".join(f"`{field}`" if "_" in field or " " not in field else field for field in limit.fields)
            rows.append(f"| {fields} | {limit.unit} | {limit.least} | {most} | {limit.why} |")
        parts.append(f"**{group[0].upper()}{group[1:]}**\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def with_table(page: str) -> str:
    """The page with the table of the code between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text("utf-8")), "utf-8")
