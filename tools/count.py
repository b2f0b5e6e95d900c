"""Counts the code of each room of bdal: lines that are not blank, comments or docstrings; and names long files.

python tools/count.py
"""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "bdal"
LONG = 450  # lines of a file, whatever is in them
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str) -> int:
    """How many lines of a source are code."""
    lines = source.splitlines()
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            code |= {n for n in range(token.start[0], token.end[0] + 1) if lines[n - 1].strip()}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(code)


def main() -> None:
    """Print a table of the rooms and the files above `LONG` lines."""
    code, files, long = Counter(), Counter(), {}
    for path in sorted(PACKAGE.rglob("*.py")):
        source, name = path.read_text(encoding="utf-8"), path.relative_to(PACKAGE)
        room = name.parts[0] if len(name.parts) > 1 else name.stem
        code[room] += code_lines(source)
        files[room] += 1
        if (raw := len(source.splitlines())) > LONG:
            long[name.as_posix()] = raw
    for room, count in [*sorted(code.items()), ("all", code.total())]:
        print(f"{room:14}{count:7,} lines{files[room] or files.total():5} files")
    print(f"above {LONG} lines: {', '.join(f'{name} ({raw})' for name, raw in long.items()) or 'none'}")


if __name__ == "__main__":
    main()
