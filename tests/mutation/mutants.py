"""Small changes of a Python file, one at a time: the mistakes that a person could have made."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Mutant", "mutants_of", "mutated"]

ROOT = Path(__file__).resolve().parents[2]  # tests/conftest.py would import what mutants change

# Each compared once at its border and once turned round.
_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMED = {
    "add": "sub",
    "add_": "sub_",
    "all": "any",
    "amax": "amin",
    "any": "all",
    "argmax": "argmin",
    "ceil": "floor",
    "clamp_min": "clamp_max",
    "div": "mul",
    "eq": "ne",
    "floor": "ceil",
    "max": "min",
    "maximum": "minimum",
    "mean": "sum",
    "min": "max",
    "minimum": "maximum",
    "mul": "div",
    "mul_": "div_",
    "new_ones": "new_zeros",
    "new_zeros": "new_ones",
    "ones": "zeros",
    "rsqrt": "sqrt",
    "sqrt": "rsqrt",
    "sub": "add",
    "sum": "mean",
    "zeros": "ones",
}


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        file: The file that is changed, relative to the repository.
        line: Where, counted from 1.
        text: That line as it stands, without its indentation.
        before, after: What is replaced, and by what.
        start, end: The replaced bytes of the file in UTF-8.
    """

    file: str
    line: int
    text: str
    before: str
    after: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} → {self.after}"


def mutants_of(file: Path, root: Path) -> list[Mutant]:
    """All mutants of ``file``, in the order of the file.

    What only describes (annotations, docstrings, messages of errors) is left alone, and so is what stands
    outside functions, defaults of arguments included: that is computed once, at the import.
    """
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines()
    begins = [0]
    for line in source.encode().splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    found = []
    for node, replacement in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = begins[node.lineno - 1] + node.col_offset
        end = begins[node.end_lineno - 1] + node.end_col_offset
        before = source.encode()[start:end].decode()
        made = replacement if isinstance(replacement, str) else f"({ast.unparse(replacement)})"
        mutant = Mutant(
            file=file.relative_to(root).as_posix(),
            line=node.lineno,
            text=lines[node.lineno - 1].strip(),
            before=" ".join(before.split()),
            after=made,
            start=start,
            end=end,
        )
        found.append(mutant)
    return sorted(set(found), key=lambda each: (each.start, each.end, each.after))


def mutated(mutant: Mutant, root: Path) -> str:
    """The source of the mutant's file with its change.

    Raises:
        SyntaxError: The change makes no program.
    """
    whole = (root / mutant.file).read_bytes()
    text = (whole[: mutant.start] + mutant.after.encode() + whole[mutant.end :]).decode()
    ast.parse(text)
    return text


Placed = ast.expr | ast.stmt
Change = tuple[Placed, ast.expr | str]


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def _changes(node: ast.AST, inside: bool = False) -> Iterator[Change]:
    """(What is replaced, by what) of all that stands below ``node`` in the body of a function."""
    inside = inside or isinstance(node, _FUNCTIONS)
    for child in _computing(node):
        if inside:
            yield from _changes_of(child)
        yield from _changes(child, inside)


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    """The children of ``node`` that compute something."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if name == "args" and isinstance(node, _FUNCTIONS):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _describes(child):
                yield child


def _describes(node: ast.AST) -> bool:
    if isinstance(node, (ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert)):
        return True
    if isinstance(node, ast.Expr):
        value = node.value
        return isinstance(value, ast.Constant) or (
            isinstance(value, ast.Call) and _called(value) in ("register", "info", "warning")
        )
    return False


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _changes_of(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        yield from _compared(node)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, ast.BoolOp(other, node.values)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield node, ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _COMPUTED:
        other = ast.AugAssign(node.target, _COMPUTED[type(node.op)](), node.value)
        yield node, ast.unparse(other)
    elif isinstance(node, ast.UnaryOp):
        yield node, node.operand
    elif isinstance(node, ast.Constant):
        yield from _numbers(node)
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        if not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
            yield node.test, ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield node, "pass"


def _compared(node: ast.Compare) -> Iterator[Change]:
    for place, operator in enumerate(node.ops):
        for other in _COMPARED[type(operator)]:
            operators = [*node.ops[:place], other(), *node.ops[place + 1 :]]
            yield node, ast.Compare(node.left, operators, node.comparators)


def _numbers(node: ast.Constant) -> Iterator[Change]:
    if isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield node, ast.Constant(node.value + 1)
        yield node, ast.Constant(node.value - 1)
    elif isinstance(node.value, float):
        yield node, ast.Constant(node.value + 1)


def _calls(node: ast.Call) -> Iterator[Change]:
    name, function = _called(node), node.func
    if name in _NAMED and isinstance(function, ast.Attribute):
        other = ast.Attribute(function.value, _NAMED[name], ast.Load())
        yield node, ast.Call(other, node.args, node.keywords)
    elif name in _NAMED and isinstance(function, ast.Name):
        yield node, ast.Call(ast.Name(_NAMED[name], ast.Load()), node.args, node.keywords)
    if name == "where" and len(node.args) == 3:
        test, yes, no = node.args
        yield node, ast.Call(function, [test, no, yes], node.keywords)
