"""River objects as plain data and back, without pickle: a snapshot must never be able to run code.

What leaves `encode` is lists, dicts, numbers, strings, bytes, bools and None, so that msgspec can write it. An object
is kept as the class it belongs to and its state, by Python's own reduce protocol (PEP 307); `decode` makes only classes
of river, arrays and a few containers. Shared references stay shared.
"""

import collections
import copyreg
import functools
import importlib
import random
import types
from typing import Any

_PACKAGES = ("river.",)
# what arrays and generators are made with; nothing that opens a file
_NUMPY = (
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.",
    "numpy._core.multiarray.",
    "numpy._core.numeric.",
    "numpy.random._pickle.",
    "numpy.random.mtrand.",
    "numpy.random._mt19937.",
    "numpy.random._pcg64.",
    "numpy.random._generator.",
    "numpy.random.bit_generator.",
)
_PLAIN = {
    "collections.deque": collections.deque,
    "collections.defaultdict": collections.defaultdict,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    "functools.partial": functools.partial,
    "random.Random": random.Random,
    "copyreg.__newobj__": copyreg.__newobj__,  # type: ignore[attr-defined]  # typeshed leaves out what pickle writes
    "copyreg._reconstructor": copyreg._reconstructor,  # type: ignore[attr-defined]  # as above
    "builtins.object": object,
    "builtins.tuple": tuple,
    "builtins.str": str,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.int": int,
    "builtins.float": float,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.bool": bool,
    "builtins.complex": complex,
}


class Unencodable(ValueError):
    """The object holds something that cannot be kept as data; names it."""


def encode(value: Any) -> Any:
    """Plain data that `decode` turns into an equal object.

    Raises:
        Unencodable: a class outside of river and numpy, a lambda, an open file, ...
    """
    return _Encoder().value(value)


def decode(data: Any) -> Any:
    """The object that `encode` was given.

    Raises:
        Unencodable: the data names something else than a class of river or numpy.
    """
    return _Decoder().value(data)


class _Encoder:
    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # ids are only good while their objects live

    def value(self, v: Any) -> Any:
        if v is None or type(v) in (bool, str, bytes):
            return v
        if type(v) is int:
            return v if -(2**63) <= v < 2**63 else ["i", str(v)]
        if type(v) is float:
            return ["f", v.hex()]  # inf and nan too
        if type(v) is tuple:
            return ["t", [self.value(x) for x in v]]
        if isinstance(v, type | types.FunctionType) or (
            isinstance(v, types.BuiltinFunctionType) and isinstance(v.__self__, types.ModuleType | None)
        ):
            return ["c", _name(v)]
        if isinstance(v, types.MethodType) or (isinstance(v, types.BuiltinFunctionType) and v.__self__ is not None):
            if not type(v.__self__).__module__.startswith(_PACKAGES):
                raise Unencodable(f"{v.__qualname__} cannot be kept as data")
            return ["m", self.value(v.__self__), v.__name__]
        if id(v) in self._seen:
            return ["r", self._seen[id(v)]]
        self._seen[id(v)] = number = len(self._seen)
        self._alive.append(v)
        if type(v) is list:
            return ["l", number, [self.value(x) for x in v]]
        if type(v) is dict:
            return ["d", number, [[self.value(k), self.value(x)] for k, x in v.items()]]
        try:
            reduced = v.__reduce_ex__(4)
        except (TypeError, AttributeError) as e:
            raise Unencodable(f"{type(v).__module__}.{type(v).__qualname__} cannot be kept as data: {e}") from None
        if isinstance(reduced, str):
            raise Unencodable(f"{type(v).__qualname__} is kept by name only: {reduced}")
        make, args, state, items, pairs = (*reduced, None, None, None)[:5]
        return [
            "o",
            number,
            _name(make),
            [self.value(a) for a in args],
            self.value(state),
            None if items is None else [self.value(x) for x in items],
            None if pairs is None else [[self.value(k), self.value(x)] for k, x in pairs],
        ]


class _Decoder:
    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def value(self, d: Any) -> Any:
        if not isinstance(d, list):
            return d
        kind = d[0]
        if kind == "i":
            return int(d[1])
        if kind == "f":
            return float.fromhex(d[1])
        if kind == "t":
            return tuple(self.value(x) for x in d[1])
        if kind == "c":
            return _named(d[1])
        if kind == "m":
            owner = self.value(d[1])
            if not type(owner).__module__.startswith(_PACKAGES):
                raise Unencodable(f"a snapshot may not name a method of {type(owner).__qualname__}")
            return getattr(owner, d[2])
        if kind == "r":
            return self._made[d[1]]
        if kind == "l":
            out: list[Any] = []
            self._made[d[1]] = out
            out.extend(self.value(x) for x in d[2])
            return out
        if kind == "d":
            mapping: dict[Any, Any] = {}
            self._made[d[1]] = mapping
            mapping.update((self.value(k), self.value(x)) for k, x in d[2])
            return mapping
        if kind != "o":
            raise Unencodable(f"not the data of an object: {kind!r}")
        _, number, make, args, state, items, pairs = d
        obj = _named(make)(*[self.value(a) for a in args])
        self._made[number] = obj
        state = self.value(state)
        if state is not None:
            if hasattr(obj, "__setstate__"):
                obj.__setstate__(state)
            else:
                slots = None
                if isinstance(state, tuple) and len(state) == 2:
                    state, slots = state
                if state:
                    obj.__dict__.update(state)
                for k, x in (slots or {}).items():
                    setattr(obj, k, x)
        for x in items or ():
            obj.append(self.value(x))
        for k, x in pairs or ():
            obj[self.value(k)] = self.value(x)
        return obj


def _name(v: Any) -> str:
    name = f"{v.__module__}.{v.__qualname__}"
    if name not in _PLAIN:
        if not name.startswith(_PACKAGES + _NUMPY) or "<" in name:
            raise Unencodable(f"{name} cannot be kept as data")
        if _named(name) is not v:
            raise Unencodable(f"{name} cannot be found again by its name")
    return name


def _named(name: str) -> Any:
    if name in _PLAIN:
        return _PLAIN[name]
    if not name.startswith(_PACKAGES + _NUMPY):
        raise Unencodable(f"a snapshot may not name {name}")
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        try:
            for part in parts[cut:]:
                found = getattr(found, part)
        except AttributeError:
            continue
        return found
    raise Unencodable(f"unknown here: {name}")
