"""Parameters."""

import json
import math
import os
import re
from typing import Any, Dict, Optional, Type, TypeVar, Union, overload

from ._run import DroverError

T = TypeVar("T", bool, int, float, str)


def params() -> Dict[str, Any]:
    """All parameters that the pipeline gave, as they are in its file."""
    path = os.environ.get("DROVER_PARAMS_FILE")
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as f:
            given = json.load(f)
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise DroverError(f"the parameters in {path} are not JSON: {e}") from e
    if not isinstance(given, dict):
        raise DroverError(f"the parameters in {path} are not a JSON object")
    return given


@overload
def param(name: str, default: T) -> T: ...


@overload
def param(name: str, *, type: Type[T]) -> T: ...


def param(name: str, default: Optional[Any] = None, *, type: Optional[Type[Any]] = None) -> Any:
    """One parameter, of its default's type or of the type named.

    It comes from the pipeline, else from the variable DROVER_PARAM_<NAME>,
    else it is the default; without a default it must be given. A value of
    another type is an error, but 3 is good for a float, and 3.0 for an int.
    """
    want = type if type is not None else default.__class__
    if want not in (bool, int, float, str):
        raise TypeError(f"param({name!r}): give a default of, or a type among, bool, int, float, str")
    given = params()
    variable = "DROVER_PARAM_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper()
    if given.get(name) is not None:
        return _convert(name, given[name], want)
    if variable in os.environ:
        return _parse(name, os.environ[variable], want)
    if default is None:
        raise DroverError(f"parameter {name!r} is not given; given are: {', '.join(sorted(given)) or 'none'}")
    return default


def _convert(name: str, value: Any, want: Type[Any]) -> Union[bool, int, float, str]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if want is float and is_number:
        return float(value)
    if want is int and is_number and value == int(value):
        return int(value)
    if want in (bool, str) and isinstance(value, want):
        return want(value)  # type: ignore[no-any-return]
    raise DroverError(f"parameter {name!r} is {value!r}, not of type {want.__name__}")


def _parse(name: str, text: str, want: Type[Any]) -> Union[bool, int, float, str]:
    if want is str:
        return text
    try:
        return _convert(name, json.loads(text), want)
    except ValueError:
        raise DroverError(f"parameter {name!r} is {text!r}, not of type {want.__name__}") from None
