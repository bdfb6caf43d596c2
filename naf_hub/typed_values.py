"""Values from outside (TOML, JSON, command lines, callers) against the types that code states for them."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class UnknownTypeError(TypeError):
    """A type that says nothing of plain values."""


def fitted(value: Any, hint: Any) -> tuple[Any, str]:
    """``value`` as a type wants it and no word, or anything and the words for what it should have been.

    Args:
        value: plain data, or a number or an array of NumPy or torch.
        hint: ``int``, ``float`` (finite), ``bool``, ``str``, ``Literal``, ``Mapping``, ``list[T]``, ``Sequence[T]`` and
            ``tuple[T, ...]`` (one value alone is a list of one), ``tuple[T, T]``, ``os.PathLike``, and unions of these;
            the word ``none`` stands for ``None``. ``Any`` takes everything.

    Raises:
        UnknownTypeError: another ``hint``.
    """
    if hint is Any:
        return value, ""
    value = value.tolist() if hasattr(value, "tolist") else value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and (value is None or value == "none"):
            return None, ""
        words: list[str] = []
        for kind in (kind for kind in arguments if kind is not type(None)):
            found, word = fitted(value, kind)
            if not word:
                return found, ""
            words.append(word)
        return None, " or ".join(words) + (", or none" if type(None) in arguments else "")
    if origin is Literal:
        return value, "" if value in arguments else " or ".join(map(str, arguments))
    if origin in (list, tuple, Sequence):
        return _fitted_list(value, origin, arguments)
    if hint is Mapping or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return (dict(value), "") if isinstance(value, Mapping) else (None, "a table")
    if origin is os.PathLike:
        return value, "" if isinstance(value, os.PathLike) else "a path"
    if hint not in WORDS:
        raise UnknownTypeError(f"no plain value is of type {hint}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and number and math.isfinite(value):
        return float(value), ""
    if hint is int and number and isinstance(value, int):
        return value, ""
    if hint is bool and isinstance(value, bool):
        return value, ""
    if hint is str and isinstance(value, (str, Path)):
        return str(value), ""
    return None, WORDS[hint]


def _fitted_list(value: Any, origin: type, arguments: tuple[Any, ...]) -> tuple[Any, str]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if origin is tuple and arguments[-1] is not Ellipsis and len(values) != len(arguments):
        return None, f"{len(arguments)} values, each {fitted(None, arguments[0])[1]}"
    entries = [fitted(entry, arguments[0]) for entry in values]
    word = next((f"a list, each entry {word}" for _, word in entries if word), "")
    return (list if origin is list else tuple)(entry for entry, _ in entries), word


def nearest(word: str, known: Iterable[str], called: str) -> str:
    """What to say after an unknown word: the nearest that is known, else all, as ``called``."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"{called}: {', '.join(names) or 'none'}"


def fitted_keywords(
    target: Callable[..., Any], given: Mapping[str, Any], owner: str, without: Collection[str] = ()
) -> dict[str, Any]:
    """Keyword arguments that may be handed to ``target``, each as its annotation wants it.

    Where annotations are missing, are not of plain values or have names that only a type checker sees, a value stays as
    it is.

    Args:
        target: a function, method or class.
        given: the arguments by name.
        owner: whose options they are, for messages: ``"upsampler 'naf'"``.
        without: names that are not for whoever gives these.

    Raises:
        TypeError: an option that ``target`` does not take, or of the wrong type; says which, and what it takes.
    """
    parameters = inspect.signature(target).parameters
    names = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in (*without, "self")
    ]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = _hints(target)
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in names and (name in without or not takes_any):
            raise TypeError(f"{owner} has no option {name!r}; {nearest(name, names, 'options')}")
        word = ""
        try:
            found[name], word = fitted(value, hints.get(name, Any) if name in names else Any)
        except UnknownTypeError:
            found[name] = value
        if word:
            raise TypeError(f"{owner}: option {name} = {value!r}: must be {word}")
    return found


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if isinstance(target, type) else target
    try:
        return typing.get_type_hints(function)
    except Exception:  # whatever evaluating an annotation raises
        return {}
