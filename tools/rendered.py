"""The rendered pages: what is mended in the HTML of either renderer, and what is checked in it.

What can be done on the notebooks is done there (tools/site.py). Here is what a renderer adds by itself: what
it would load from outside, marks in its navigation, formulas and captions that smalldocs leaves as text.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag

from tools import formulas

TOGETHER = 16  # pages in memory at a time, and formulas of so many pages in one call of pandoc
NAVIGATIONS = {
    "navbar": "site",
    "sidebar": "all pages",
    "secondary": "place",
    "toc": "on this page",
    "page-navigation": "next and previous page",
}  # a word of the class -> the name
ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath "
    "d='M1 8c2-9 3-9 5 0s3 6 4 0 2-4 2.5 0 1 2 2.5 0' fill='none' stroke='%23b35c00' stroke-width='1.6' "
    "stroke-linecap='round'/%3E%3C/svg%3E"
)
TO_THE_CURRENT_PAGE = """
addEventListener('load', () => {
  const side = document.getElementById('quarto-sidebar');
  const here = side && side.querySelector('[aria-current="page"], .active');
  if (!here || side.scrollTop) return;
  side.scrollTop = here.getBoundingClientRect().top - side.getBoundingClientRect().top - side.clientHeight/2;
});
"""
JQUERY = re.compile(r"\bdefine\(\s*['\"]jquery['\"]")
LIBRARIES = ("katex", "mathjax", "require", "jquery")  # that a renderer loads and no page needs


def outside(url: str) -> bool:
    "Whether an address leads out of the site."
    return bool(re.match(r"(?:https?:)?//", url.strip(), re.I))


# --------------------------------------------------------------------------------------------------- mending


def draw_captions(soups: list[BeautifulSoup]) -> None:
    "smalldocs shows captions as plain text; Quarto has drawn them already."
    found = [c for soup in soups for c in soup.find_all(["figcaption", "caption"])]
    found = [c for c in found if not c.find(True) and c.get_text(strip=True)]
    for caption, html in zip(found, formulas.captions([c.get_text() for c in found]), strict=True):
        caption.clear()
        caption.append(BeautifulSoup(html, "html.parser"))


def draw_formulas(soups: dict[str, BeautifulSoup]) -> list[str]:
    "Every formula that is still TeX as MathML, its number at the right; returns those that cannot be drawn."
    spans: list[tuple[str, Tag, formulas.Formula, str | None]] = []
    for where, soup in soups.items():
        for span in soup.select("span.math"):
            source = re.fullmatch(r"\s*\\[(\[](.*)\\[)\]]\s*", span.get_text(), re.S)
            if source:
                tex, number = formulas.numbered(source[1])
                spans.append((where, span, (tex, "display" in span["class"]), number))
    drawn = formulas.mathml(formula for _, _, formula, _ in spans)
    problems = []
    for where, span, formula, number in spans:
        if drawn[formula] is None:
            problems.append(f"{where}: pandoc does not understand ${' '.join(formula[0].split())[:100]}$")
            continue
        span.clear()
        span.append(BeautifulSoup(drawn[formula], "html.parser"))
        if number:
            label = soups[where].new_tag("span", attrs={"class": "eqno"}, string=f"({number})")
            span.append(label)
    return problems


def drop_libraries(soup: BeautifulSoup) -> None:
    "Take out scripts and style sheets that a renderer would load from outside."
    for tag in soup.find_all(["script", "link"]):
        url = tag.get("src") or tag.get("href") or ""
        from_outside = outside(url) and any(word in url.lower() for word in LIBRARIES)
        if from_outside or (tag.name == "script" and JQUERY.search(tag.get_text())):
            tag.decompose()


def name_things(soup: BeautifulSoup) -> None:
    "What keyboards and screen readers need: boxes that scroll take the focus, navigations have names."
    for box in soup.find_all(["pre", "table"]):
        box["tabindex"] = box.get("tabindex", "0")
    for nav in soup.find_all("nav"):
        words = " ".join(nav.get("class", []))
        names = [name for word, name in NAVIGATIONS.items() if word in words]
        nav["aria-label"] = nav.get("aria-label") or (names or ["more"])[0]
    for link in soup.select('a[role="navigation"]'):
        link["role"] = "button"  # it unfolds a section and is no region of the page
    for corner in soup.find_all("th"):
        if not corner.get_text(strip=True) and not corner.find(True):
            corner.name = "td"  # an empty corner of a table is no heading


def mark_current(soup: BeautifulSoup, where: str) -> None:
    "In the bar at the top, the page that is shown is the current one, and no other."
    for link in soup.select(".navbar a.nav-link[href]"):
        path = urlsplit(link["href"]).path
        target = posixpath.normpath(posixpath.join(posixpath.dirname(where), path)) if path else ""
        classes = [c for c in link.get("class", []) if c != "active"]
        link["class"] = [*classes, "active"] if target == where else classes
        link.attrs.pop("aria-current", None)
        if target == where:
            link["aria-current"] = "page"


def tidy(soup: BeautifulSoup, where: str) -> None:
    "What both renderers leave to be done on a page."
    drop_libraries(soup)
    name_things(soup)
    mark_current(soup, where)
    for link in soup.find_all("a", href=re.compile(r"^(?:\./|(?:\.\./)+)$")):
        link["href"] += "index.html"  # a folder opens by itself only on a server
    for meta in soup.find_all("meta", content=re.compile("`")):
        meta["content"] = meta["content"].replace("`", "")
    if soup.head and not soup.find("link", rel="icon"):
        soup.head.append(soup.new_tag("link", rel="icon", href=ICON))
    if soup.body:
        script = soup.new_tag("script")
        script.string = TO_THE_CURRENT_PAGE
        soup.body.append(script)


def finish(site: Path) -> list[str]:
    "Mend every page of a freshly rendered site; returns the formulas that could not be drawn."
    problems: list[str] = []
    paths = sorted(site.rglob("*.html"))
    for first in range(0, len(paths), TOGETHER):
        soups = {
            p.relative_to(site).as_posix(): BeautifulSoup(p.read_text(encoding="utf-8"), "html.parser")
            for p in paths[first : first + TOGETHER]
        }
        draw_captions(list(soups.values()))
        problems += draw_formulas(soups)
        for where, soup in soups.items():
            tidy(soup, where)
            (site / where).write_text(str(soup), encoding="utf-8")
    for path in site.rglob("*.css"):
        css = path.read_text(encoding="utf-8")
        new = re.sub(r"@import\s*(?:url\([\"']?https?:[^)]*\)|[\"']https?:[^\"']*[\"'])[^;]*;", "", css)
        if new != css:
            path.write_text(new, encoding="utf-8")
    return problems


def front_door(site: Path, home: str, title: str) -> None:
    "The page at the root, which leads to the first one: a renderer may write another, to another page."
    (site / "index.html").write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="refresh" content="0; url={home}"><link rel="canonical" href="{home}"></head>'
        f'<body><h1><a href="{home}">{title}</a></h1></body></html>\n',
        encoding="utf-8",
    )


# -------------------------------------------------------------------------------------------------- checking

LOADS = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("iframe", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("track", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("input", "src"),
    ("image", "href"),
    ("use", "href"),
}
LINKED = {
    "stylesheet",
    "icon",
    "apple-touch-icon",
    "manifest",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
}
URL = r"((?:https?:)?//[^)\"'\s]+)"
CSS_LOAD = re.compile(rf"url\(\s*[\"']?{URL}|@import\s+[\"']{URL}", re.I)
JS_LOAD = re.compile(rf"(?:\bimport\b[^;'\"]*|\bfetch\(|\bimportScripts\(|\.src\s*=\s*)[\"']{URL}")
NO_PROSE = {"code", "pre", "script", "style", "math", "title"}


class Reader(HTMLParser):
    "What one html file points to, loads and can be pointed at."

    def __init__(self):
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.names: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.no_alt = 0
        self.language = ""
        self.headings: list[int] = []
        self.dollars: list[str] = []
        self._inside = ""
        self._no_prose: Counter[str] = Counter()

    def handle_starttag(self, tag: str, pairs: list[tuple[str, str | None]]) -> None:
        a = {k: v or "" for k, v in pairs}
        if tag == "html":
            self.language = a.get("lang", "")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self._inside = tag if tag in ("script", "style") else ""
        if tag in NO_PROSE:
            self._no_prose[tag] += 1
        if a.get("id") and tag != "link":
            self.ids[a["id"]] += 1
        self.names |= {a["name"]} if a.get("name") else set()
        if tag != "base":
            self.links += [a[key] for key in ("href", "src") if a.get(key)]
        self.loads += loaded(tag, a)
        decorative = a.get("role") == "presentation" or "navbar-logo" in a.get("class", "")
        if tag == "img" and not a.get("alt", "").strip() and not decorative:
            self.no_alt += 1

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""
        if self._no_prose[tag]:
            self._no_prose[tag] -= 1

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.loads += ["".join(m) for m in CSS_LOAD.findall(data)]
        elif self._inside == "script":
            self.loads += JS_LOAD.findall(data)
        elif "$" in data and not any(self._no_prose.values()):
            self.dollars.append(" ".join(data.split())[:80])


def loaded(tag: str, attributes: dict[str, str]) -> Iterator[str]:
    "The addresses that a browser fetches when it meets an element."
    for key, value in attributes.items():
        linked = tag == "link" and key == "href" and set(attributes.get("rel", "").split()) & LINKED
        if key == "srcset" and (tag, key) in LOADS:
            yield from (part.split()[0] for part in value.split(",") if part.strip())
        elif (tag, key) in LOADS or linked:
            yield value
        elif key == "style":
            yield from ("".join(m) for m in CSS_LOAD.findall(value))


def structure(where: str, reader: Reader) -> list[str]:
    "What a screen reader goes by: a language, one first heading, no level of headings left out, no id twice."
    found = [] if reader.language else [f"{where}: the html element has no lang"]
    if reader.headings and reader.headings.count(1) != 1:
        found.append(f"{where}: {reader.headings.count(1)} first headings; a page has one")
    steps = [(a, b) for a, b in zip(reader.headings, reader.headings[1:], strict=False) if b > a + 1]
    found += [f"{where}: a heading of level {b} follows one of level {a}" for a, b in steps[:1]]
    return found + [f"{where}: the id {i} is used {n} times" for i, n in reader.ids.items() if n > 1]


def content(where: str, reader: Reader) -> list[str]:
    "What is loaded, shown without words, or shown as source."
    found = [f"{where}: loads {u} from outside" for u in dict.fromkeys(reader.loads) if outside(u)]
    if reader.no_alt:
        found.append(f"{where}: {reader.no_alt} picture(s) without alternative text (`#| fig-alt:`)")
    said = f"{where}: a dollar sign outside of code, perhaps a formula that was not read"
    return found + [f"{said}: {words}" for words in reader.dollars[:3]]


def broken_links(site: Path, where: str, readers: dict[str, Reader], gone: set[str]) -> Iterator[str]:
    "The links of a page that lead nowhere."
    for link in dict.fromkeys(readers[where].links):
        parts = urlsplit(link)
        if parts.scheme == "file":
            yield f"{where}: link to a file of one machine: {link}"
        if parts.scheme or link.startswith("//") or link == "#":
            continue
        if parts.path.startswith("/"):
            yield f"{where}: absolute link {link}; write it relative to the page"
            continue
        target = where
        if parts.path:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(where), unquote(parts.path)))
        if target in gone:
            continue
        place = unquote(parts.fragment)
        if target.startswith("..") or not (site / target).is_file():
            yield f"{where}: broken link {link}"
        elif place and target in readers and place not in readers[target].ids.keys() | readers[target].names:
            yield f"{where}: broken link {link}: no such place on that page"


def check(site: Path, missing: set[str] = frozenset()) -> list[str]:
    "Everything wrong with a built site: broken links, outside requests, pictures without a text, double ids."
    readers: dict[str, Reader] = {}
    for path in sorted(site.rglob("*.html")):
        reader = Reader()
        reader.feed(path.read_text(encoding="utf-8"))
        readers[path.relative_to(site).as_posix()] = reader
    gone = {m.removesuffix(".ipynb") + end for m in missing for end in (".html", ".ipynb")}
    problems: list[str] = []
    for where, reader in readers.items():
        problems += structure(where, reader) + content(where, reader)
        problems += broken_links(site, where, readers, gone)
    for path in sorted(site.rglob("*.css")):
        urls = ["".join(m) for m in CSS_LOAD.findall(path.read_text(encoding="utf-8"))]
        problems += [f"{path.relative_to(site).as_posix()}: loads {url} from outside" for url in urls]
    return problems
