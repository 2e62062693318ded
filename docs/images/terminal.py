#!/usr/bin/env python3
"""Make an SVG picture of a terminal from what tmux captured of it.

    tmux capture-pane -e -p | docs/images/terminal.py TITLE >run.svg

Text stays text, each piece at its column whatever the font. Colours are those of
escape sequences 0 to 49; other sequences are an error.
"""

import re
import sys
from html import escape

FONT_SIZE, CELL, LINE = 14, 8.43, 19  # pixels; a cell is as wide as a character
MARGIN, BAR = 18, 38
BACKGROUND, FRAME, TEXT, FAINT = "#0f1419", "#1c232b", "#d5dae0", "#7d8793"
COLOURS = {31: "#f07178", 32: "#8bd17c", 33: "#e6c07b", 34: "#61afef", 35: "#c792ea", 36: "#56c8d8"}


def pieces(text):
    """Yield (line, column, style, text) of each coloured word, without blank ones.

    A style goes on over the end of a line, as it does in a terminal.
    """
    style = {}
    for row, line in enumerate(text.split("\n")):
        column = 0
        for part in re.split(r"(\x1b\[[0-9;]*m)", line):
            if part.startswith("\x1b["):
                for code in map(int, re.findall(r"\d+", part) or [0]):
                    restyle(style, code)
                continue
            if "\x1b" in part:
                sys.exit(f"terminal.py: line {row + 1} has an escape sequence that is not a style")
            for word in re.finditer(r"\S+(?: \S+)*", part):
                yield row, column + word.start(), dict(style), word.group()
            column += len(part)


def restyle(style, code):
    if code == 0:
        style.clear()
    elif code == 1:
        style["font-weight"] = "bold"
    elif code == 2:
        style["fill"] = FAINT
    elif code == 22:
        style.pop("font-weight", None)
    elif code == 39:
        style.pop("fill", None)
    elif code in COLOURS:
        style["fill"] = COLOURS[code]
    elif code != 49:
        sys.exit(f"terminal.py: no colour for escape code {code}")


def svg(title, text, columns):
    lines = text.count("\n") + 1
    width = round(columns * CELL + 2 * MARGIN)
    height = BAR + lines * LINE + MARGIN
    title = escape(title)
    yield (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
           f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="{FONT_SIZE}" fill="{TEXT}">')
    yield f"<title>{title}</title>"
    yield f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="9" fill="{BACKGROUND}" stroke="#30363d"/>'
    yield f'<path d="M1 {BAR - 8}V10a9 9 0 0 1 9-9H{width - 10}a9 9 0 0 1 9 9V{BAR - 8}Z" fill="{FRAME}"/>'
    for n, colour in enumerate(("#f2615a", "#f0b93f", "#57c353")):
        yield f'<circle cx="{20 + 20 * n}" cy="15.5" r="6" fill="{colour}"/>'
    yield f'<text x="{width / 2}" y="20" text-anchor="middle" font-size="13" fill="{FAINT}">{title}</text>'
    for row, column, style, word in pieces(text):
        attributes = "".join(f' {name}="{value}"' for name, value in style.items())
        yield (f'<text x="{MARGIN + column * CELL:.1f}" y="{BAR + 12 + row * LINE}" textLength="{len(word) * CELL:.1f}"{attributes}>'
               f"{escape(word, quote=False)}</text>")
    yield "</svg>"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    text = sys.stdin.read().rstrip()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    print("\n".join(svg(sys.argv[1], text, max(map(len, plain.split("\n"))))))


if __name__ == "__main__":
    main()
