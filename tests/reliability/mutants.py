"""Small mistakes made in a module's source, one at a time: what tests should notice."""

import ast
import copy
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

SWAPPED_OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Pow: ast.Mult, ast.Mod: ast.Mult,
    ast.MatMult: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
}  # fmt: skip
SWAPPED_FUNCTIONS = {
    "maximum": "minimum", "max": "min", "argmax": "argmin", "mean": "sum", "any": "all", "zeros": "ones", "zeros_like": "ones_like",
    "floor": "ceil", "nanmean": "nansum", "amax": "amin", "rint": "floor", "logical_and": "logical_or",
}  # fmt: skip
SWAPPED_FUNCTIONS |= {new: old for old, new in SWAPPED_FUNCTIONS.items() if new not in ("sum", "floor")}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One changed place of a file: bytes `start` to `stop` of its text become `new`.

    identity: names the mutant by what it changes and the text before it, not by its line.
    """

    file: str
    line: int
    start: int
    stop: int
    old: str
    new: str
    identity: str

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}: {_short(self.old)} -> {_short(self.new)}"

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new.encode() + source[self.stop :]


def make(file: str, source: bytes, start: int, stop: int, new: str) -> Mutant:
    """The mutant of a file's text whose bytes start to stop become `new`."""
    old, before = source[start:stop].decode(), source[:start][-200:].decode(errors="replace")
    identity = hashlib.sha256(f"{file}|{before}|{old}|{new}".encode()).hexdigest()[:10]
    return Mutant(file, source[:start].count(b"\n") + 1, start, stop, old, new, identity)


def _short(text: str) -> str:
    return " ".join(text.split())[:60]


def of_file(root: Path, file: Path) -> list[Mutant]:
    """All mutants of a module below root. Texts, annotations, decorators and errors' messages stay
    as they are.
    """
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node in _places(ast.parse(source)):
        for old, new in [(node, new) for new in _replacements(node)] + list(_conditions(node)):
            start = starts[old.lineno - 1] + old.col_offset
            stop = starts[old.end_lineno - 1] + old.end_col_offset
            text = "pass" if isinstance(new, ast.Pass) else f"({ast.unparse(ast.fix_missing_locations(new))})"
            found.append(make(str(file.relative_to(root)), source, start, stop, text))
    return found


def sample(root: Path, packages: list[str], number: int, seed: int, excluded: tuple[str, ...]) -> list[Mutant]:
    """`number` mutants, equally many of each package: those with the smallest hashes, so that an
    edit of the code changes few of them.

    excluded: beginnings of paths, below root, whose modules are left as they are.
    """
    drawn = []
    for i, package in enumerate(packages):
        mutants = of_package(root, package, excluded)
        count = number // len(packages) + (i < number % len(packages))
        drawn += sorted(mutants, key=lambda m: hashlib.sha256(f"{seed}|{m.identity}".encode()).digest())[:count]
    return drawn


def of_package(root: Path, package: str, excluded: tuple[str, ...]) -> list[Mutant]:
    files = sorted((root / package).rglob("*.py"))
    return [mutant for file in files for mutant in of_file(root, file) if not mutant.file.startswith(excluded)]


def _places(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run: without annotations, decorators, texts and errors' messages."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if not isinstance(child, ast.Raise):
                yield from _places(child)


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in SWAPPED_OPERATORS:
            if not _is_text(left) and not _is_text(right):
                yield _changed(node, op=SWAPPED_OPERATORS[type(op)]())
        case ast.Compare(ops=[op]) if type(op) in SWAPPED_OPERATORS:
            yield _changed(node, ops=[SWAPPED_OPERATORS[type(op)]()])
        case ast.BoolOp(op=op):
            yield _changed(node, op=SWAPPED_OPERATORS[type(op)]())
        case ast.UnaryOp(operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield _changed(node, body=orelse, orelse=body)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call():
            yield from _calls(node)
        case ast.Raise() | ast.AugAssign() | ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if _uses(value, name):
            yield ast.Pass()


def _conditions(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """The opposite of a condition that is no comparison (those are in `_replacements`)."""
    test = getattr(node, "test", None)
    if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript):
        yield test, ast.UnaryOp(ast.Not(), test)


def _uses(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(node))


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """Another function, a function left out, two arguments swapped, a keyword left out."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "stop_gradient":
        yield node.args[0]
    if name in SWAPPED_FUNCTIONS:
        field = "attr" if isinstance(node.func, ast.Attribute) else "id"
        yield _changed(node, func=_changed(node.func, **{field: SWAPPED_FUNCTIONS[name]}))
    if len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
        yield _changed(node, args=[node.args[1], node.args[0], *node.args[2:]])
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _is_text(keyword.value):
            yield _changed(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
