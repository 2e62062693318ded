"""Tensors of the Open Inference Protocol, as nested lists."""

import math
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

_INT_BITS = {f"{sign}INT{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = ("FP16", "BF16", "FP32", "FP64")


class BadInput(ValueError):
    """The request is at fault. Its message goes to the client."""


@dataclass(frozen=True)
class Tensor:
    """What an input or output of a model looks like.

    A -1 in shape stands for any size, such as that of the batch.
    """

    name: str
    datatype: str  # BOOL, INT8..INT64, UINT8..UINT64, FP16, FP32, FP64 or BYTES (text)
    shape: Tuple[int, ...]

    def __post_init__(self) -> None:
        if self.datatype not in ("BOOL", "BYTES", *_INT_BITS, *_FLOATS):
            raise ValueError(f"tensor {self.name!r} has unknown datatype {self.datatype!r}")

    def metadata(self) -> Dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}

    def check(self, data: Any) -> Tuple[int, ...]:
        """Returns the shape of nested lists, or raises BadInput."""
        shape = _shape_of(data)
        if len(shape) != len(self.shape) or any(w not in (-1, g) for w, g in zip(self.shape, shape)):
            raise BadInput(f"{self.name!r} has shape {list(shape)}; want {list(self.shape)}")
        self._check_values(data, shape, 0)
        return shape

    def _check_values(self, data: Any, shape: Sequence[int], depth: int) -> None:
        if depth == len(shape):
            if isinstance(data, (list, tuple)):
                raise BadInput(f"{self.name!r} is not rectangular")
            if not _is(data, self.datatype):
                raise BadInput(f"{self.name!r} holds {data!r:.40}, which is not {self.datatype}")
            return
        if not isinstance(data, (list, tuple)) or len(data) != shape[depth]:
            raise BadInput(f"{self.name!r} is not rectangular")
        for item in data:
            self._check_values(item, shape, depth + 1)


def _is(value: Any, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if datatype == "BYTES":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if datatype in _FLOATS:
        return math.isfinite(value)
    sign, bits = _INT_BITS[datatype]
    low, high = (0, 2**bits) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return isinstance(value, int) and low <= value < high


def _shape_of(data: Any) -> Tuple[int, ...]:
    shape: List[int] = []
    while isinstance(data, (list, tuple)):
        shape.append(len(data))
        if not data:
            break
        data = data[0]
    return tuple(shape)


def decode(request: Any, specs: Mapping[str, Tensor]) -> Dict[str, Any]:
    """The inputs of an infer request as nested lists, by name."""
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise BadInput('the request must be an object with a list "inputs"')
    values: Dict[str, Any] = {}
    for tensor in request["inputs"]:
        if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
            raise BadInput('every input must be an object with a "name"')
        name = tensor["name"]
        if name in values:
            raise BadInput(f"input {name!r} is given twice")
        spec = specs.get(name)
        if spec is not None and tensor.get("datatype") != spec.datatype:
            raise BadInput(f"{name!r} has datatype {tensor.get('datatype')!r:.40}; want {spec.datatype}")
        values[name] = _reshape(name, tensor.get("shape"), tensor.get("data"))
    return check_all(values, specs)


def check_all(values: Any, specs: Mapping[str, Tensor]) -> Dict[str, Any]:
    """Checks that values are exactly the inputs that the model declares."""
    if not isinstance(values, dict):
        raise BadInput("the request must be an object of inputs by name")
    missing, unknown = sorted(specs.keys() - values.keys()), sorted(values.keys() - specs.keys())
    if missing or unknown:
        wrong = [f"missing: {', '.join(missing)}"] if missing else []
        wrong += [f"unknown: {', '.join(unknown)[:100]}"] if unknown else []
        raise BadInput(f"inputs {'; '.join(wrong)}; the model takes: {', '.join(sorted(specs))}")
    for name, spec in specs.items():
        spec.check(values[name])
    return values


def _reshape(name: str, shape: Any, data: Any) -> Any:
    if not isinstance(shape, list) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise BadInput(f"{name!r} has no valid shape")
    if not isinstance(data, list):
        raise BadInput(f'{name!r} has no list "data"')
    if data and isinstance(data[0], list):
        if _shape_of(data) != tuple(shape):
            raise BadInput(f"{name!r} has data of another shape than it says")
        return data
    if math.prod(shape) != len(data):
        raise BadInput(f"{name!r} has {len(data)} values; its shape {shape} needs {math.prod(shape)}")
    nested: List[Any] = data
    for size in reversed(shape[1:]):
        nested = [nested[i : i + size] for i in range(0, len(nested), size)] if size else [[] for _ in range(shape[0])]
    return nested if shape else data[0]


def encode(values: Mapping[str, Any], specs: Mapping[str, Tensor], wanted: Any) -> List[Dict[str, Any]]:
    """The outputs of an infer response, all or those that the client wants."""
    names = list(specs)
    if wanted is not None:
        if not isinstance(wanted, list) or not all(isinstance(w, dict) for w in wanted):
            raise BadInput('"outputs" must be a list of objects')
        names = [w.get("name") for w in wanted]
        for name in names:
            if name not in specs:
                raise BadInput(f"there is no output {name!r:.40}; the model gives: {', '.join(specs)}")
    tensors = []
    for name in names:
        flat: List[Any] = []
        shape = specs[name].check(values[name])
        _flatten(values[name], flat)
        tensors.append({"name": name, "datatype": specs[name].datatype, "shape": list(shape), "data": flat})
    return tensors


def _flatten(data: Any, into: List[Any]) -> None:
    if isinstance(data, (list, tuple)):
        for item in data:
            _flatten(item, into)
    else:
        into.append(data)
