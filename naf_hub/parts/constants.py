"""What compilers of graphs are told of functions and sizes, without importing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)


def constant_for_compilers(function: Function) -> Function:
    """Mark a function of plain numbers as ``torch.compiler.assume_constant_result`` does.

    That decorator imports all of ``torch._dynamo`` (two seconds) to set this one attribute, and torch has no other way
    to set it.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
