"""The tools of the demo agent: search files, read a document, run a calculation.

They do real work on the text files in `documents/`, which ship with the package. What a model asks
for is untrusted, so every argument is checked, and a refused call is a `ToolError` with a text that
the model can act on.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, Union

if TYPE_CHECKING:
    import sys

    if sys.version_info >= (3, 11):
        from importlib.resources.abc import Traversable
    else:
        from importlib.abc import Traversable

__all__ = [
    "Tool",
    "ToolError",
    "calculate",
    "default_tools",
    "documents_folder",
    "read_document",
    "search_files",
]

Number = Union[int, float]
Tool = Callable[..., str]

MAX_EXPRESSION_LENGTH = 200
MAX_RESULT_BITS = 2048
MAX_MATCHES = 20


class ToolError(Exception):
    """A tool call that could not be carried out; the text tells the model why."""


def documents_folder() -> Traversable:
    """Return the folder of text files that ships with the package, also from inside a zip file."""
    return resources.files("agent_event_bus.cli") / "documents"


def _documents(folder: Traversable) -> dict[str, Traversable]:
    """Return the documents of `folder` by name, in alphabetical order."""
    found = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".md")}
    return dict(sorted(found.items()))


def search_files(query: str, *, folder: Traversable | None = None) -> str:
    """Search every document for `query`, without regard to case.

    Args:
        query: the text to look for; not a regular expression.
        folder: the folder to search; the package's own documents when omitted.

    Returns:
        One line a match, `name:line: text`, at most 20 of them.

    Raises:
        ToolError: the query is empty or matches nothing.
    """
    wanted = query.strip().casefold()
    if not wanted:
        raise ToolError("the query is empty")
    matches = []
    for name, document in _documents(folder or documents_folder()).items():
        text = document.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            if wanted in line.casefold():
                matches.append(f"{name}:{number}: {line.strip()}")
    if not matches:
        raise ToolError(f"no document contains {query!r}")
    if len(matches) > MAX_MATCHES:
        left_out = len(matches) - MAX_MATCHES
        matches[MAX_MATCHES:] = [f"({left_out} more matches)"]
    return "\n".join(matches)


def read_document(name: str, *, folder: Traversable | None = None) -> str:
    """Return the text of one document.

    Args:
        name: a name as `search_files` reports it. Only names found in the folder are opened, so a
            path that leads out of it is simply an unknown name.
        folder: the folder to read from; the package's own documents when omitted.

    Raises:
        ToolError: there is no such document.
    """
    document = _documents(folder or documents_folder()).get(name)
    if document is None:
        raise ToolError(f"no document is named {name!r}; search_files finds names")
    return document.read_text(encoding="utf-8")


def calculate(expression: str) -> str:
    """Evaluate an arithmetic expression of numbers, `+ - * / // % **` and parentheses.

    Nothing else is evaluated: no names, calls, strings or attributes. The size of the expression
    and of every intermediate result is limited, so that no input can keep the machine busy.

    Raises:
        ToolError: the expression is malformed, too large, or has no finite real result.
    """
    if len(expression) > MAX_EXPRESSION_LENGTH:
        raise ToolError(f"the expression is longer than {MAX_EXPRESSION_LENGTH} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        result = _evaluate(tree.body)
    except ZeroDivisionError:
        raise ToolError("division by zero") from None
    except OverflowError:
        raise ToolError("the result is too large") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ToolError("the expression is not valid arithmetic") from None
    return str(result) if isinstance(result, int) else format(result, ".12g")


_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Mapping[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def _evaluate(node: ast.expr) -> Number:
    if isinstance(node, ast.Constant):
        return _checked(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _checked(_UNARY[type(node.op)](_evaluate(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Pow):
            _check_power(left, right)
        return _checked(_BINARY[type(node.op)](left, right))
    raise ToolError(f"only numbers and arithmetic are allowed, not {type(node).__name__}")


def _check_power(base: Number, exponent: Number) -> None:
    """Refuse an integer power before it is computed; a float one overflows by itself."""
    if isinstance(base, int) and isinstance(exponent, int):
        if base.bit_length() * abs(exponent) > MAX_RESULT_BITS:
            raise ToolError("the power is too large")
    elif base < 0:
        raise ToolError("a fractional power of a negative number is not real")


def _checked(value: object) -> Number:
    # bool is an int to Python but not a number to somebody who calculates.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ToolError("only numbers and arithmetic are allowed")
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("the result is too large")
    if isinstance(value, int) and value.bit_length() > MAX_RESULT_BITS:
        raise ToolError("the result is too large")
    return value


def default_tools() -> dict[str, Tool]:
    """Return the tools of the demo agent by the name the model calls them with."""
    return {
        "search_files": search_files,
        "read_document": read_document,
        "calculate": calculate,
    }
