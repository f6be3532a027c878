"""Python's text -> its syntax tree, for one thread at a time."""

from __future__ import annotations

import ast
import threading

_PARSING = threading.Lock()


def tree_of(text: str, name: str = "<unknown>") -> ast.Module:
    """As `ast.parse`, which mixes up threads that are in it together: "SystemError: AST constructor recursion depth mismatch"
    (https://github.com/python/cpython/issues/106905).
    """
    with _PARSING:
        return ast.parse(text, name)
