"""The document around a report: head, navigation and sections; it asks for nothing from elsewhere, and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from mutual.engine.report.pages.markup import Markup, element, join
from mutual.engine.storage import REPORT_MARK

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def section(key: str, title: str, *children: object, note: object = None) -> Markup | None:
    """Returns a section with a heading; None where all of its children are None or empty."""
    if not any(children):
        return None
    said = None if note is None else element("p", note, class_="note")
    return element("section", element("h2", title, id=key), said, *children, aria_labelledby=key)


def document(title: str, subtitle: object, sections: Sequence[tuple[str, str, Markup | None]]) -> str:
    """Returns the whole file.

    Args:
        title: of the page.
        subtitle: below it.
        sections: key, name in the navigation, and content; those without content are left out.
    """
    shown = [(key, text, content) for key, text, content in sections if content is not None]
    style = Markup(files(__package__).joinpath("style.css").read_text(encoding="utf-8"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        Markup(REPORT_MARK.decode()),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", style),
    )
    links = [element("li", element("a", text, href=f"#{key}")) for key, text, _ in shown]
    navigation = element("nav", element("ol", *links), aria_label="Sections")
    top = element("header", element("h1", title), element("p", subtitle, class_="subtitle"))
    foot = element("footer", element("p", "Written by python -m mutual.report."))
    main = element("main", *(content for *_, content in shown), id="content")
    skip = element("a", "To the content", href="#content", class_="skip")
    body = element("body", skip, top, element("div", navigation, main, class_="columns"), foot)
    whole = join([Markup("<!doctype html>\n"), element("html", head, Markup("\n"), body, lang="en"), Markup("\n")])
    return whole.encode("utf-8", "backslashreplace").decode()  # names of files may hold bytes that are not UTF-8
