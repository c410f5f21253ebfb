"""Pages of results, parsed: what every report, sweep and comparison promises."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """The elements of a page that its promises are about. Every tag that is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.pictures: list[dict[str, str | None]] = []
        self.unwrapped = 0
        self.figures_without_numbers = 0
        self.links: list[str] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self._has_table: list[bool] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        within = [(name, own) for name, own in self.open]
        if tag in {"svg", "img"}:
            self.pictures.append(values)
        if tag == "table":
            self.unwrapped += not any((own.get("class") or "").split() == ["scroll"] for _, own in within)
            if self._has_table and any(name == "details" for name, _ in within):
                self._has_table[-1] = True
        if tag == "figure":
            self._has_table.append(False)
        if tag == "a":
            self.links.append(values["href"] or "")
        if tag not in VOID:
            self.open.append((tag, values))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        name, _ = self.open.pop()
        assert name == tag, f"<{name}> is closed by </{tag}>"
        if tag == "figure":
            self.figures_without_numbers += not self._has_table.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1][0] in {"h1", "h2"}:
            self.headings.append(data)
