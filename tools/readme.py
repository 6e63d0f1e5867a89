"""README.md, written from nbs/index.ipynb: its text as it is, its stored outputs as tables and pictures.

    python tools/readme.py [--check]     write what has changed; with --check only say so, exit 1

Links are rewritten from the page's folder to the root of the repository. A picture that a markdown cell links
to (`../results/.../x.png`) stays a link; a picture that a code cell drew is written to `results/readme/`.
"""

from __future__ import annotations

import argparse
import base64
import posixpath
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
from tools.book import read_page, text  # noqa: E402

HEAD = "<!-- Written by tools/readme.py from nbs/index.ipynb; edit that page, then `make readme`. -->\n"
PICTURES = "results/readme"


def from_root(markdown: str) -> str:
    "Links that are relative to nbs/, made relative to the root."

    def move(m: re.Match) -> str:
        before, target = m[1], m[2]
        if re.match(r"[a-z][a-z+.-]*:|[#/]", target):
            return m[0]
        return before + posixpath.normpath(posixpath.join("nbs", target))

    return re.sub(r"""(\]\(\s*|\b(?:src|href)=["'])([^)\s"']+)""", move, markdown)


def output(out: dict, name: str, options: dict[str, str], pictures: dict[str, bytes]) -> str:
    "One stored output as GitHub shows it; pictures go to `pictures` and leave a link."
    data = out.get("data", {})
    if out["output_type"] == "stream":
        return "" if out["name"] == "stderr" else f"```text\n{text(out['text']).rstrip()}\n```"
    if "text/markdown" in data:
        return from_root(text(data["text/markdown"]).strip())
    if "image/png" in data:
        path = f"{PICTURES}/{name}.png"
        pictures[path] = base64.b64decode(text(data["image/png"]))
        return f"![{options.get('fig-alt', '').strip(chr(34))}]({path})"
    if "text/html" in data:
        html = re.sub(r"<style.*?</style>", "", text(data["text/html"]), flags=re.S)
        return "\n".join(s.strip() for s in html.splitlines() if s.strip())
    return f"```text\n{text(data['text/plain']).rstrip()}\n```" if "text/plain" in data else ""


def files(root: Path = ROOT) -> dict[str, bytes]:
    "README.md and the pictures it needs, path -> content."
    page = root / "nbs" / "index.ipynb"
    if not page.exists():
        raise FileNotFoundError("nbs/index.ipynb is missing: README.md is written from it")
    parts, pictures = [], {}
    for i, cell in enumerate(read_page(page, root / "nbs").cells):
        source, options = cell.source.strip(), cell.directives
        if cell.kind == "markdown":
            parts.append(from_root(re.sub(r"^:::.*\n?", "", source, flags=re.M)).strip())
        if cell.kind != "code" or cell.hidden:
            continue
        code = "\n".join(s for s in source.splitlines() if not re.match(r"#\s*\|", s)).strip()
        if code and options.get("echo") != "false" and "hide_input" not in options:
            parts.append(f"```python\n{code}\n```")
        if options.get("output") != "false" and "hide_output" not in options:
            name = options.get("label", f"cell-{i}")
            outs = [o for o in cell.outputs if o["output_type"] != "error"]
            parts += [
                output(o, name if k == 0 else f"{name}-{k}", options, pictures) for k, o in enumerate(outs)
            ]
    body = HEAD + "\n" + "\n\n".join(p for p in parts if p) + "\n"
    return {"README.md": body.encode(), **pictures}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args(argv)
    try:
        want = files()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    stale = [n for n, body in want.items() if not (ROOT / n).exists() or (ROOT / n).read_bytes() != body]
    left = [p for p in (ROOT / PICTURES).glob("*.png") if p.relative_to(ROOT).as_posix() not in want]
    for n in stale:
        print(f"{n} is stale" if args.check else f"wrote {n}")
        if not args.check:
            (ROOT / n).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / n).write_bytes(want[n])
    for p in left:
        print(f"{p.relative_to(ROOT).as_posix()} is shown no more")
        if not args.check:
            p.unlink()
    return 1 if args.check and (stale or left) else 0


if __name__ == "__main__":
    raise SystemExit(main())
