"""TeX formulas as MathML, which browsers draw without a script or a font from outside.

Knows what the pages use: letters and Greek, scripts, fractions, roots, accents, fonts, delimiters, operators, matrices, cases, aligned rows.
Anything else raises `TexError`, so that no page shows a formula half understood. (Under Quarto, Pandoc does this work.)
"""
from __future__ import annotations

import re
from html import escape


class TexError(ValueError):
    "A formula that this converter does not know how to draw."


GREEK = dict(alpha="α", beta="β", gamma="γ", delta="δ", epsilon="ϵ", varepsilon="ε", zeta="ζ", eta="η", theta="θ", vartheta="ϑ", iota="ι",
             kappa="κ", lambda_="λ", mu="μ", nu="ν", xi="ξ", pi="π", varpi="ϖ", rho="ρ", varrho="ϱ", sigma="σ", varsigma="ς", tau="τ",
             upsilon="υ", phi="ϕ", varphi="φ", chi="χ", psi="ψ", omega="ω")
GREEK["lambda"] = GREEK.pop("lambda_")
CAPITAL = dict(Gamma="Γ", Delta="Δ", Theta="Θ", Lambda="Λ", Xi="Ξ", Pi="Π", Sigma="Σ", Upsilon="Υ", Phi="Φ", Psi="Ψ", Omega="Ω")
LETTERS = dict(ell="ℓ", hbar="ℏ", Re="ℜ", Im="ℑ", infty="∞", partial="∂", nabla="∇", emptyset="∅", varnothing="∅", forall="∀", exists="∃",
               top="⊤", bot="⊥", dagger="†", prime="′", ldots="…", dots="…", cdots="⋯", vdots="⋮", ddots="⋱", imath="ı", jmath="ȷ")
BINARY = dict(bmod="mod", cdot="·", times="×", div="÷", pm="±", mp="∓", ast="∗", star="⋆", circ="∘", bullet="•", odot="⊙", otimes="⊗", oplus="⊕",
              ominus="⊖", cup="∪", cap="∩", setminus="∖", wedge="∧", vee="∨", land="∧", lor="∨")
RELATION = dict(le="≤", leq="≤", ge="≥", geq="≥", ne="≠", neq="≠", approx="≈", sim="∼", simeq="≃", cong="≅", propto="∝", equiv="≡", ll="≪",
                gg="≫", lesssim="≲", gtrsim="≳", in_="∈", notin="∉", ni="∋", subset="⊂", subseteq="⊆", supset="⊃", to="→", rightarrow="→",
                leftarrow="←", gets="←", leftrightarrow="↔", Rightarrow="⇒", Leftarrow="⇐", Leftrightarrow="⇔", implies="⟹", iff="⟺",
                mapsto="↦", longrightarrow="⟶", perp="⊥", parallel="∥", mid="∣", vdash="⊢", triangleq="≜", doteq="≐", prec="≺", succ="≻",
                uparrow="↑", downarrow="↓", colon=":", coloneqq="≔")
RELATION["in"] = RELATION.pop("in_")
FENCE = {"langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈", "rceil": "⌉", "lvert": "|", "rvert": "|", "vert": "|",
         "lVert": "‖", "rVert": "‖", "Vert": "‖", "|": "‖", "{": "{", "}": "}", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]"}
BIG = dict(sum="∑", prod="∏", coprod="∐", int="∫", iint="∬", oint="∮", bigcup="⋃", bigcap="⋂", bigoplus="⨁", bigotimes="⨂")
NAMES = set("sin cos tan cot sec arcsin arccos arctan sinh cosh tanh log ln lg exp det dim arg deg gcd ker hom Pr".split())
LIMITS = set("min max sup inf lim limsup liminf".split())
ACCENT = dict(hat="^", check="ˇ", tilde="~", bar="¯", vec="→", dot="˙", ddot="¨", acute="´", grave="`", breve="˘",
              widehat="^", widetilde="~", overline="‾", overrightarrow="→")
WIDE = {"widehat", "widetilde", "overline", "overrightarrow"}
SPACE = {",": .167, ":": .222, ">": .222, ";": .278, "!": -.167, " ": .333, "quad": 1, "qquad": 2, "thinspace": .167, "enspace": .5}
FONTS = dict(mathrm="normal", mathup="normal", rm="normal", mathbf="bold", mathit="italic", boldsymbol="bolditalic", bm="bolditalic",
             pmb="bolditalic", mathcal="script", mathscr="script", mathbb="double", mathsf="sans", mathtt="mono", mathfrak="fraktur")
ALPHABET = dict(bold=(0x1D400, 0x1D41A, 0x1D7CE), bolditalic=(0x1D468, 0x1D482, 0x1D7CE), script=(0x1D49C, 0x1D4B6, 0x30),
                double=(0x1D538, 0x1D552, 0x1D7D8), sans=(0x1D5A0, 0x1D5BA, 0x1D7E2), mono=(0x1D670, 0x1D68A, 0x1D7F6),
                fraktur=(0x1D504, 0x1D51E, 0x30))
HOLES = {"script": dict(zip("BEFHILMRego", "ℬℰℱℋℐℒℳℛℯℊℴ", strict=True)), "double": dict(zip("CHNPQRZ", "ℂℍℕℙℚℝℤ", strict=True)),
         "fraktur": dict(zip("CHIRZ", "ℭℌℑℜℨ", strict=True))}
SIZES = {f"{name}{side}": size for name, size in dict(big=1.2, Big=1.8, bigg=2.4, Bigg=3.).items() for side in ("", "l", "r", "m")}
MATRIX = dict(matrix="", smallmatrix="", pmatrix="()", bmatrix="[]", Bmatrix="{}", vmatrix="||", Vmatrix="‖‖", array="")
ROWS = {"aligned", "align", "align*", "split", "alignedat", "gather", "gather*", "gathered", "cases", "equation", "equation*", *MATRIX}
TEXT = {"text", "textrm", "textnormal", "mbox", "textbf", "textit", "texttt"}


def styled(char: str, font: str | None) -> str:
    "One letter or digit in a mathematical alphabet, as its own Unicode character."
    if font in HOLES and char in HOLES[font]:
        return HOLES[font][char]
    if font not in ALPHABET:
        return char
    upper, lower, digit = ALPHABET[font]
    if "A" <= char <= "Z":
        return chr(upper + ord(char) - 65)
    if "a" <= char <= "z":
        return chr(lower + ord(char) - 97)
    if "0" <= char <= "9":
        return chr(digit + ord(char) - 48)
    if font in ("bold", "bolditalic") and "α" <= char <= "ω":
        return chr((0x1D6C2 if font == "bold" else 0x1D736) + ord(char) - 0x3B1)
    if font in ("bold", "bolditalic") and "Α" <= char <= "Ω":
        return chr((0x1D6A8 if font == "bold" else 0x1D71C) + ord(char) - 0x391)
    return char


def mo(char: str, **attributes: str) -> str:
    return f"<mo{''.join(f' {k}={chr(34)}{v}{chr(34)}' for k, v in attributes.items())}>{escape(char)}</mo>"


def row(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"<mrow>{''.join(parts)}</mrow>"


class Parser:
    "Reads one formula from left to right; `self.tag` is the number of the equation, if it has one."
    def __init__(self, tex: str):
        self.s, self.i, self.tag = tex, 0, None

    def fail(self, why: str) -> TexError:
        return TexError(f"{why} in ${' '.join(self.s.split())[:100]}$")

    def skip(self) -> None:
        while self.i < len(self.s) and self.s[self.i] in " \t\r\n":
            self.i += 1

    def peek(self) -> str:
        "The next token without taking it: a command, a number or a character; empty at the end."
        self.skip()
        m = re.compile(r"\\(?:[A-Za-z]+|.)|\d+(?:\.\d+)?|.", re.S).match(self.s, self.i)
        return m[0] if m else ""

    def take(self) -> str:
        token = self.peek()
        self.i += len(token)
        return token

    def raw(self) -> str:
        "The text of a braced group, as written."
        if self.take() != "{":
            raise self.fail("a brace is missing")
        start, depth = self.i, 1
        while depth:
            if self.i >= len(self.s):
                raise self.fail("a brace is not closed")
            c = self.s[self.i]
            self.i += 2 if c == "\\" else 1
            depth += (c == "{") - (c == "}")
        return self.s[start:self.i - 1]

    def argument(self, font: str | None = None) -> str:
        token = self.peek()
        if token in ("", "}", "&"):
            raise self.fail("an argument is missing")
        if token[0].isdigit():  # as in TeX, \\frac12 is a half
            self.i += 1
            return f"<mn>{styled(token[0], font)}</mn>"
        return self.atom(font)[0]

    def sequence(self, stops: set[str], font: str | None = None) -> list[str]:
        "Atoms with their scripts until one of `stops`, which is left in place."
        out: list[str] = []
        while (token := self.peek()) not in stops:
            if token == "":
                raise self.fail(f"{' or '.join(sorted(stops))} is missing")
            if token in ("\\displaystyle", "\\textstyle"):
                self.take()
                on = "true" if token == "\\displaystyle" else "false"
                return [*out, f'<mstyle displaystyle="{on}">{"".join(self.sequence(stops, font))}</mstyle>']
            out.append(self.scripted(font))
        return out

    def scripted(self, font: str | None) -> str:
        if self.peek() in ("^", "_", "'"):
            base, limits, name = "<mrow></mrow>", False, False
        else:
            base, limits, name = self.atom(font)
        sub = sup = ""
        while (token := self.peek()) in ("^", "_", "'", "\\limits", "\\nolimits"):
            if token == "'":
                n = len(re.compile(r"(?:'\s*)+").match(self.s, self.i)[0].replace(" ", ""))
                for _ in range(n):
                    self.take()
                sup = row([*([sup] if sup else []), mo("′"*n, lspace="0", rspace="0")])
                continue
            self.take()
            if token in ("\\limits", "\\nolimits"):
                limits = token == "\\limits"
            elif token == "_":
                if sub:
                    raise self.fail("two subscripts")
                sub = self.argument(font)
            else:
                new = self.argument(font)
                sup = row([sup, new]) if sup else new
        if name and self.peek() not in ("(", "[", "\\left", "\\big", "\\bigl", "\\Big", "\\Bigl", ")", "]", "}", ",", "", "\\right"):
            base = base.replace('rspace="0"', 'rspace="0.167em"', 1)
        if not sub and not sup:
            return base
        under = "munder" if limits else "msub"
        over = "mover" if limits else "msup"
        kind = (under + over[1:] if sub and sup else under if sub else over)
        return f"<{kind}>{base}{sub}{sup}</{kind}>"

    def delimiter(self) -> str:
        token = self.take()
        if token == ".":
            return ""
        if token.lstrip("\\") in FENCE and token.startswith("\\"):
            return FENCE[token[1:]]
        if token in "()[]|/<>":
            return {"<": "⟨", ">": "⟩"}.get(token, token)
        raise self.fail(f"unknown delimiter {token}")

    def letters(self, font: str) -> str:
        "A group in a font. Upright letters side by side are one name."
        if self.peek() != "{":
            return self.argument(font)
        start = self.i
        text = self.raw().replace("\\,", " ")
        if font == "normal" and re.fullmatch(r"[A-Za-z0-9 .-]+", text):
            return f'<mi mathvariant="normal">{escape(text.strip())}</mi>'
        self.i = start
        return self.argument(font)

    def atom(self, font: str | None) -> tuple[str, bool, bool]:
        "One atom, whether its scripts stand below and above, and whether it is a function name."
        token = self.take()
        if token == "{":
            parts = self.sequence({"}"}, font)
            self.take()
            return row(parts), False, False
        if token.startswith("\\"):
            return self.command(token[1:], font)
        if token[0].isdigit():
            return f"<mn>{''.join(styled(c, font) for c in token)}</mn>", False, False
        if token.isalpha():
            upright = ' mathvariant="normal"' if font in ("normal", *ALPHABET) else ""
            return f"<mi{upright}>{styled(token, font)}</mi>", False, False
        if token in "()[]":
            return mo(token, stretchy="false"), False, False
        if token in "|":
            return mo("|", stretchy="false", lspace="0", rspace="0"), False, False
        if token == "/":
            return mo("/", lspace="0", rspace="0"), False, False
        if token == "~":
            return '<mspace width="0.333em"/>', False, False
        if token == ".":
            return "<mtext>.</mtext>", False, False
        if token in "+-":
            before = self.s[:self.i - 1].rstrip()
            sign = not before or before[-1] in "([{,;=<>|^_&/" or re.search(r"\\\\$|\\(?:%s)$" % "|".join([*RELATION, *BINARY]), before)
            return mo({"-": "−"}.get(token, token), **({"form": "prefix", "lspace": "0", "rspace": "0"} if sign else {})), False, False
        if token in "=<>,;:!*":
            return mo({"*": "∗"}.get(token, token)), False, False
        raise self.fail(f"unexpected {token!r}")

    def command(self, name: str, font: str | None) -> tuple[str, bool, bool]:
        plain = False, False
        if name in GREEK:
            return f"<mi>{styled(GREEK[name], font)}</mi>", *plain
        if name in CAPITAL:
            return f'<mi mathvariant="normal">{styled(CAPITAL[name], font)}</mi>', *plain
        if name in LETTERS:
            return f'<mi mathvariant="normal">{LETTERS[name]}</mi>', *plain
        if name in BINARY:
            return mo(BINARY[name], lspace="0.222em", rspace="0.222em"), *plain
        if name in RELATION:
            return mo(RELATION[name], stretchy="false", lspace="0.278em", rspace="0.278em"), *plain
        if name in FENCE:
            return mo(FENCE[name], stretchy="false", lspace="0", rspace="0"), *plain
        if name in BIG:
            limits = "∫" not in BIG[name] and name not in ("iint", "oint")
            return mo(BIG[name], **({"movablelimits": "true"} if limits else {})), limits, False
        if name in NAMES or name in LIMITS:
            return mo({"limsup": "lim sup", "liminf": "lim inf"}.get(name, name), form="prefix", lspace="0.167em", rspace="0",
                      **({"movablelimits": "true"} if name in LIMITS else {})), name in LIMITS, True
        if name in ("operatorname", "mathop"):
            star = self.peek() == "*"
            if star:
                self.take()
            text = re.sub(r"\\(?:mathrm|text|rm|operatorname)\b|[{}]|\\[,;! ]", lambda m: " " if m[0] == "\\," else "", self.raw())
            below = star or name == "mathop"
            return mo(text.strip(), form="prefix", lspace="0.167em", rspace="0", **({"movablelimits": "true"} if below else {})), below, True
        if name in SPACE:
            return f'<mspace width="{SPACE[name]}em"/>', *plain
        if name in "%#&_$" and len(name) == 1:
            return f'<mi mathvariant="normal">{escape(name)}</mi>', *plain
        if name in FONTS:
            return self.letters(FONTS[name]), *plain
        if name in TEXT:
            style = {"textbf": ' style="font-weight:bold"', "textit": ' style="font-style:italic"',
                     "texttt": ' style="font-family:monospace"'}.get(name, "")
            text = re.sub(r"\\([_%#&{}$ ])", r"\1", self.raw())
            return f"<mtext{style}>{escape(re.sub(r'^ | $', chr(160), text))}</mtext>", *plain
        if name in ("frac", "dfrac", "tfrac", "cfrac", "binom"):
            top, bottom = self.argument(font), self.argument(font)
            if name == "binom":
                return f'<mrow>{mo("(")}<mfrac linethickness="0">{top}{bottom}</mfrac>{mo(")")}</mrow>', *plain
            fraction = f"<mfrac>{top}{bottom}</mfrac>"
            if name in ("dfrac", "tfrac"):
                fraction = f'<mstyle displaystyle="{"true" if name == "dfrac" else "false"}">{fraction}</mstyle>'
            return fraction, *plain
        if name == "sqrt":
            if self.peek() != "[":
                return f"<msqrt>{self.argument(font)}</msqrt>", *plain
            self.take()
            degree = row(self.sequence({"]"}, font))
            self.take()
            return f"<mroot>{self.argument(font)}{degree}</mroot>", *plain
        if name in ACCENT:
            mark = mo(ACCENT[name], stretchy="true" if name in WIDE else "false")
            return f'<mover accent="true">{self.argument(font)}{mark}</mover>', *plain
        if name == "underline":
            return f'<munder accentunder="true">{self.argument(font)}{mo("_", stretchy="true")}</munder>', *plain
        if name in ("underbrace", "overbrace"):
            tag, brace = ("munder", "⏟") if name == "underbrace" else ("mover", "⏞")
            return f'<{tag}>{self.argument(font)}{mo(brace, stretchy="true")}</{tag}>', True, False
        if name in ("overset", "underset", "stackrel"):
            mark, base = self.argument(font), self.argument(font)
            tag = "munder" if name == "underset" else "mover"
            return f"<{tag}>{base}{mark}</{tag}>", *plain
        if name == "not":
            token = self.take()
            if token not in ("=", "\\in", "\\equiv", "\\sim"):
                raise self.fail(f"unknown negation \\not{token}")
            return mo({"=": "≠", "\\in": "∉", "\\equiv": "≢", "\\sim": "≁"}[token]), *plain
        if name in SIZES:
            size = f"{SIZES[name]}em"
            return mo(self.delimiter(), stretchy="true", minsize=size, maxsize=size, lspace="0", rspace="0"), *plain
        if name == "left":
            return self.fenced(font), *plain
        if name == "middle":
            return mo(self.delimiter(), stretchy="true", lspace="0.1em", rspace="0.1em"), *plain
        if name == "begin":
            return self.environment(), *plain
        if name == "substack":
            inner = Parser(self.raw() + "\\end{}")
            return inner.table("substack"), *plain
        if name == "tag":
            self.tag = self.raw()
            return "", *plain
        if name in ("label", "nonumber", "notag"):
            if name == "label":
                self.raw()
            return "", *plain
        raise self.fail(f"unknown command \\{name}")

    def fenced(self, font: str | None) -> str:
        opening = self.delimiter()
        parts = self.sequence({"\\right"}, font)
        self.take()
        closing = self.delimiter()
        left = mo(opening, form="prefix", fence="true", stretchy="true") if opening else ""
        right = mo(closing, form="postfix", fence="true", stretchy="true") if closing else ""
        return f"<mrow>{left}{''.join(parts)}{right}</mrow>"

    def environment(self) -> str:
        name = self.raw()
        if name not in ROWS:
            raise self.fail(f"unknown environment {name}")
        if name in ("array", "alignedat"):
            self.raw()  # the column letters
        table = self.table(name)
        if self.raw() != name:
            raise self.fail(f"\\end{{{name}}} is missing")
        if name == "cases":
            return f'<mrow>{mo("{", form="prefix", fence="true", stretchy="true")}{table}</mrow>'
        if MATRIX.get(name):
            a, b = MATRIX[name]
            return (f'<mrow>{mo(a, form="prefix", fence="true", stretchy="true")}{table}'
                    f'{mo(b, form="postfix", fence="true", stretchy="true")}</mrow>')
        return table

    def table(self, name: str) -> str:
        "Rows and columns until `\\end`, which is taken."
        rows: list[list[str]] = [[]]
        while True:
            cell = "".join(self.sequence({"&", "\\\\", "\\end"}))
            rows[-1].append(cell)
            token = self.take()
            if token == "\\end":
                break
            if token == "\\\\":
                if self.peek() == "[":  # extra space after a row
                    self.i = self.s.index("]", self.i) + 1
                rows.append([])
        if rows[-1] == [""]:
            rows.pop()
        aligned = name in ("aligned", "align", "align*", "split", "alignedat")
        side = {"cases": "left", "substack": "center"}
        out = ""
        for r in rows:
            cells = ""
            for j, cell in enumerate(r):
                if aligned:
                    style = "text-align:right;padding-right:0" if j % 2 == 0 else "text-align:left;padding-left:0"
                    cell = ("<mrow></mrow>" if j % 2 else "") + cell  # an empty start makes the relation infix
                else:
                    style = f"text-align:{side.get(name, 'center')}"
                cells += f'<mtd style="{style}">{cell}</mtd>'
            out += f"<mtr>{cells}</mtr>"
        display = ' displaystyle="true"' if aligned or name.startswith("gather") or name.startswith("equation") else ""
        return f"<mtable{display}>{out}</mtable>"


def mathml(tex: str, *, display: bool = False) -> tuple[str, str | None]:
    "The `<math>` element of a formula, and the number that its `\\tag` gives."
    source = tex.strip()
    bare = re.sub(r"\\begin\{(\w+\*?)\}.*?\\end\{\1\}", "", source, flags=re.S)
    rows = re.search(r"\\\\|(?<!\\)&", bare)  # rows without an environment are aligned ones
    parser = Parser(f"\\begin{{aligned}}{source}\\end{{aligned}}" if rows else source)
    parts = parser.sequence({""})
    note = f'<annotation encoding="application/x-tex">{escape(source)}</annotation>'
    block = ' display="block"' if display else ""
    return (f'<math xmlns="http://www.w3.org/1998/Math/MathML"{block}><semantics><mrow>{"".join(parts)}</mrow>{note}</semantics></math>',
            parser.tag)
