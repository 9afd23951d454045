"""A page as a reader without a browser sees it: its elements, and its text in one language."""

from html.parser import HTMLParser

VOID = {"meta", "input", "br", "link", "img", "hr", "col"}


class Page(HTMLParser):
    """Attributes:
    elements: every element as (name, attributes).
    open: those that were never closed.
    scripts: the text of each script element.
    """

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.wrong, self.scripts, self._texts = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self._texts.append((set(), " "))
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        self._texts.append((set(), " "))
        if not self.open or self.open[-1][0] != tag:
            self.wrong.append(tag)
            return
        self.open.pop()

    def handle_data(self, data):
        if any(tag == "script" for tag, _ in self.open):
            self.scripts[-1] += data
        elif not any(tag == "style" for tag, _ in self.open):
            classes = {word for _, one in self.open for word in (one.get("class") or "").split()}
            self._texts.append((classes & {"en", "zh"}, data))

    def text(self, language="en"):
        """All that is seen in that language, blanks taken together."""
        other = {"en": "zh", "zh": "en"}[language]
        return " ".join("".join(text for of, text in self._texts if other not in of).split())

    def all(self, tag, **wanted):
        """The attributes of elements of that name which have these."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in wanted.items()}
        return [has for name, has in self.elements if name == tag and wanted.items() <= has.items()]
