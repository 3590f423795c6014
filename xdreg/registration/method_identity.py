"""What a user's function is known by: its code, and all that the code uses.

Closures, defaults, bound objects, and the globals and modules that the code names
count, through the user's own modules. Code is compared as Python compiled it, so that
comments and blank lines do not count. Installed packages count by name and version.
"""

from __future__ import annotations

import contextlib
import copyreg
import dis
import functools
import hashlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import sys
import sysconfig
import threading
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import zarr
from zarr.abc.store import Store

from xdreg.stores.identity import UNKNOWN, identity_of, zarr_arrays_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(...))

#: Types without a content.
_STATELESS = (
    *(type(threading.Lock()), type(threading.RLock()), threading.Event),
    *(threading.Condition, threading.Semaphore, threading.Barrier),
)

#: Functions and descriptors of compiled code.
_COMPILED = (
    *(types.BuiltinFunctionType, types.MethodWrapperType),
    *(types.MethodDescriptorType, types.WrapperDescriptorType),
    types.ClassMethodDescriptorType,
)

#: What Python makes for each of a class's slots.
_SLOTS = types.MemberDescriptorType, types.GetSetDescriptorType

#: Members of a class that say nothing of what it does, or are made of the others.
_NO_MEMBERS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"),
    *("__abstractmethods__", "_abc_impl", "__static_attributes__", "__firstlineno__"),
    *("__dataclass_fields__", "__dataclass_params__", "__annotate_func__"),
}


@dataclass(frozen=True)
class Known:
    """What is known of a value: a token, and names of what in it cannot be known."""

    token: str
    unknown: tuple[str, ...]


def what_is_known(value: Any, name: str) -> Known:
    """Return a token of a function or value that is equal in every process.

    An object may state its content itself, by ``__dask_tokenize__``.

    Parameters
    ----------
    value
        The function or value.
    name
        How to call it where something in it cannot be known.
    """
    walk = _Walk({})
    try:
        token = walk.of(value, name)
    except RecursionError:
        token, walk.unknown = "", [f"{name}, which is nested too deeply"]
    return Known(token, tuple(walk.unknown))


class _Walk:
    """A walk through a value and all that it refers to, each object once.

    ``places`` has the number of every object that was met, by its `id`.
    """

    def __init__(self, places: dict[Any, int]) -> None:
        self._places = places
        # An id is that of another object once its own object is gone.
        self._kept: list[Any] = []
        self.unknown: list[str] = []

    def of(self, value: Any, where: str) -> str:
        """Return a token of a value; ``where`` says which it is."""
        kind = type(value)
        if kind in _ATOMS:
            return _hash(kind.__name__, repr(value))
        if kind is tuple:
            return _hash("tuple", *self._each(value, where))
        if isinstance(value, set | frozenset):
            return _hash(kind.__qualname__, *sorted(self._apart(value, where)))
        if kind is types.CodeType:
            return self._code(value, where)
        if isinstance(value, types.ModuleType):
            return self._module(value, None, where)
        if id(value) in self._places:
            return _hash("met", str(self._places[id(value)]))
        self._meet(id(value))
        self._kept.append(value)
        return self._met(value, where)

    def _meet(self, key: Any) -> None:
        self._places[key] = len(self._places)

    def _each(self, values: Iterable[Any], where: str) -> Iterator[str]:
        return (self.of(value, where) for value in values)

    def _apart(self, values: Iterable[Any], where: str) -> Iterator[str]:
        """Yield tokens that do not depend on the order of the values."""
        for value in values:
            if type(value) in _ATOMS:
                yield self.of(value, where)
                continue
            walk = _Walk(dict(self._places))
            yield walk.of(value, where)
            self.unknown += walk.unknown

    def _met(self, value: Any, where: str) -> str:
        """Return a token of an object that was not met before."""
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.MethodType):
            bound = self.of(value.__self__, f"{where}.__self__")
            return _hash("bound", bound, self.of(value.__func__, where))
        if isinstance(value, _COMPILED):
            own = getattr(value, "__self__", None)
            bound = "" if isinstance(own, types.ModuleType) else self.of(own, where)
            return _hash(self._named(value, where), bound)
        if isinstance(value, property):
            return _hash("property", *self._each((value.fget, value.fset), where))
        if isinstance(value, staticmethod | classmethod):
            return _hash(type(value).__name__, self.of(value.__func__, where))
        if isinstance(value, _STATELESS):
            return _hash("stateless", type(value).__name__)
        if isinstance(value, logging.Logger):
            return _hash("logger", value.name)
        if type(value) is list:
            return _hash("list", *self._each(value, where))
        if type(value) in (dict, types.MappingProxyType):
            return _hash("dict", *self._ordered(value, where))
        return self._object(value, where)

    def _ordered(self, value: Any, where: str) -> Iterator[str]:
        for key in value:
            yield self.of(key, where)
            yield self.of(value[key], f"{key!r} in {where}")

    def _items(self, value: Any, where: str) -> list[str]:
        """Return tokens of entries whose order does not matter."""
        keys = {self.of(k, where): k for k in value if type(k) in _ATOMS}
        parts = []
        for token in sorted(keys):
            key = keys[token]
            parts += [token, self.of(value[key], f"{key!r} in {where}")]
        rest = [(k, value[k]) for k in value if type(k) not in _ATOMS]
        return parts + sorted(self._apart(rest, where))

    def _object(self, value: Any, where: str) -> str:
        """Return a token of an instance, by what it would be copied or pickled as."""
        if isinstance(value, functools.partial):
            content = value.func, value.args, value.keywords
            return _hash("partial", *self._each(content, where))
        own = getattr(value, "__dict__", {})
        inner = own.get("py_func", own.get("__wrapped__"))
        if inner is not None and is_installed(type(value).__module__):
            # A compiled or remembering function: its own state changes in use.
            options = getattr(value, "targetoptions", None)
            return _hash(*self._each((type(value), inner, options), where))
        if isinstance(value, zarr.Array | zarr.Group):
            return self._stored(value, where)
        if isinstance(value, Store) or type(value).__module__ == "tensorstore":
            return self._unknown(value, where)  # what lies there may be rewritten
        plain = type(value) is np.ndarray and value.dtype != object
        if plain or hasattr(value, "__dask_tokenize__"):
            return self._stated(value, where)
        if hasattr(value, "__array__") and hasattr(value, "detach"):
            value = value.detach()  # a tensor, which pickles with addresses
            with contextlib.suppress(Exception):
                return self._stated(np.asarray(value.cpu()), where)
            return self._unknown(value, where)
        try:
            reducer = copyreg.dispatch_table.get(type(value))
            found = reducer(value) if reducer else value.__reduce_ex__(4)
            parts = found if isinstance(found, str) else _listed(found)
        # Objects may refuse in any way.
        except Exception:
            return self._unknown(value, where)
        if isinstance(parts, str):
            return self._global(value, parts, where)
        make, given, state, *items = parts
        kind = list(self._each((make, given), where))
        kind.append(self._state(state, where))
        return _hash("object", *kind, *self._each(items, where))

    def _state(self, state: Any, where: str) -> str:
        """Return a token of attributes: a dict, or a pair with one of slots."""
        pair = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(isinstance(part, dict | None) for part in pair):
            return self.of(state, where)
        attributes = {k: v for part in pair if part for k, v in part.items()}
        return _hash(*self._items(attributes, where))

    def _stated(self, value: Any, where: str) -> str:
        """Return the token of an object that states it."""
        with dask.config.set({"tokenize.ensure-deterministic": True}):
            try:
                token = dask.base.tokenize(value)
            except Exception:
                return self._unknown(value, where)
        # Names of Dask arrays tell where the voxels lie.
        is_lazy = dask.is_dask_collection(value)
        arrays = zarr_arrays_in(value.__dask_graph__()) if is_lazy else ()
        stored = (self._stored(array, where) for array in arrays)
        return _hash(type(value).__qualname__, token, *stored)

    def _stored(self, node: zarr.Array[Any] | zarr.Group, where: str) -> str:
        """Return a token of the voxels of an array, or of all arrays in a group."""
        if isinstance(node, zarr.Array):
            known = str(identity_of(node))
            if UNKNOWN in known:
                return self._unknown(node, where)
            return _hash("array", node.path, known, repr(dict(node.attrs)))
        found = sorted(node.members(max_depth=None))
        inner = [
            self._stored(member, where)
            for _, member in found
            if isinstance(member, zarr.Array)
        ]
        return _hash("group", repr(dict(node.attrs)), *inner)

    def _unknown(self, value: Any, where: str) -> str:
        self.unknown.append(f"{where} ({type(value).__qualname__})")
        return "unknown"

    def _global(self, value: Any, name: str, where: str) -> str:
        """Return a token of what pickles by its name, where that leads to it."""
        module = getattr(value, "__module__", None)
        if module is not None:
            return self._named(value, where)
        # A ufunc does not say where it is; one of a user's function is nowhere.
        homes = (k for k, m in [*sys.modules.items()] if _holds(m, name, value))
        for home in filter(is_installed, homes):
            return _hash(home.partition(".")[0], name, installed_version(home))
        return self._unknown(value, where)

    def _named(self, value: Any, where: str) -> str:
        """Return a token of what is compiled: its name, and where that comes from."""
        owner = getattr(value, "__objclass__", None)
        module = getattr(owner or value, "__module__", None) or "builtins"
        name = f"{module}.{getattr(value, '__qualname__', value)}"
        if is_installed(module):
            return _hash(name, installed_version(module))
        if module not in sys.modules:
            return self._unknown(value, where)
        return _hash(name, self._module(sys.modules[module], (), where))

    def _function(self, function: types.FunctionType) -> str:
        code, name = function.__code__, function.__qualname__
        values = []
        for variable, cell in zip(
            code.co_freevars, function.__closure__ or (), strict=True
        ):
            # A variable may have no value yet.
            with contextlib.suppress(ValueError):
                values.append(self.of(cell.cell_contents, f"{variable!r} of {name}"))
        module = str(function.__globals__.get("__name__", ""))
        if is_installed(module):
            version = installed_version(module)
            return _hash(f"{module}.{code.co_qualname}", version, *values)
        named = f"a default of {name}"
        values.append(self.of(function.__defaults__, named))
        values.append(self.of(function.__kwdefaults__, named))
        values.append(self.of(vars(function), name))
        return _hash(self._code(code, name), *values, *self._globals(function))

    def _globals(self, function: types.FunctionType) -> Iterator[str]:
        """Yield tokens of the globals and modules that a function's code names."""
        used = _Used.by(function.__code__)
        known, name = function.__globals__, function.__qualname__
        for variable in sorted(used.variables & known.keys()):
            value, where = known[variable], f"{variable!r} of {name}"
            if isinstance(value, types.ModuleType):
                yield _hash(variable, self._module(value, used.names, where))
            else:
                yield _hash(variable, self.of(value, where))
        for level, module, parts in sorted(used.imports):
            where = f"the module {module!r} that {name} imports"
            found = _imported("." * level + module, parts, known.get("__package__"))
            if isinstance(found, str):
                yield found
            elif found is None:
                self.unknown.append(where)
            else:
                yield self._module(found, used.names, where)

    def _module(self, module: Any, names: Iterable[str] | None, where: str) -> str:
        """Return a token of a module: of a user's module, of the names used.

        All names count if they are None, or if none of them is one of the module's: it
        is then handed on as a value.
        """
        if is_installed(module.__name__):
            return _hash(module.__name__, installed_version(module.__name__))
        own = {name for name in vars(module) if not name.startswith("__")}
        used = own & set(names or ())
        key = id(module), frozenset(used)
        if key in self._places:
            return _hash("met", str(self._places[key]))
        self._meet(key)
        file = getattr(module, "__file__", None)
        if file and not file.endswith((".py", ".pyc")):
            return _hash(module.__name__, Path(file).read_bytes())
        parts = []
        for name in sorted(used or own):
            value, place = vars(module)[name], f"{module.__name__}.{name}"
            if isinstance(value, types.ModuleType):
                parts += [name, self._module(value, used and names, place)]
            else:
                parts += [name, self.of(value, place)]
        return _hash(module.__name__, *parts)

    def _class(self, kind: type) -> str:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if is_installed(kind.__module__):
            return _hash(name, installed_version(kind.__module__))
        parts = list(self._each((type(kind), *kind.__bases__), name))
        fields = vars(kind).get("__dataclass_fields__", {})
        about = {key: field.metadata for key, field in fields.items() if field.metadata}
        parts.append(self.of(about, f"the metadata of {kind.__qualname__}"))
        for member, value in sorted(vars(kind).items()):
            if member not in _NO_MEMBERS and not isinstance(value, _SLOTS):
                parts += [member, self.of(value, f"{kind.__qualname__}.{member}")]
        return _hash(kind.__qualname__, *parts)

    def _code(self, code: types.CodeType, where: str) -> str:
        """Return a token of compiled code, without the lines that it comes from."""
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
        return _hash(
            code.co_code,
            code.co_exceptiontable,
            repr((names, counts, code.co_flags)),
            *self._each(code.co_consts, where),
        )


@dataclass(frozen=True)
class _Used:
    """What code names: variables that are not its own, imports, and all names."""

    variables: set[str]
    imports: set[tuple[int, str, tuple[str, ...]]]
    names: frozenset[str]

    @classmethod
    @functools.lru_cache(maxsize=4096)
    def by(cls, code: types.CodeType) -> _Used:
        """Return what code and the functions inside it name."""
        variables, imports, names = set(), set(), set(code.co_names)
        steps = list(dis.get_instructions(code))
        for number, step in enumerate(steps):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                variables.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                level, parts = (before.argval for before in steps[number - 2 : number])
                imports.add((level, step.argval, tuple(parts or ())))
        for value in code.co_consts:
            if isinstance(value, types.CodeType):
                inner = cls.by(value)
                variables |= inner.variables
                imports |= inner.imports
                names |= inner.names
        return cls(variables, imports, frozenset(names))


def _imported(name: str, parts: Sequence[str], package: Any) -> Any:
    """Return a user's module that a function imports, of others a token.

    None is a module that cannot be imported.
    """
    with contextlib.suppress(Exception):
        whole = importlib.util.resolve_name(name, package)
        if is_installed(whole):
            return _hash(whole, installed_version(whole))
        top = whole.partition(".")[0]
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            return _hash(whole, "is absent")
        module = importlib.import_module(whole)
        for part in parts:
            if not hasattr(module, part):
                importlib.import_module(f"{whole}.{part}")
        return module
    return None


@functools.lru_cache(maxsize=1024)
def is_installed(module: str) -> bool:
    """Return whether a module belongs to Python, an installed package or xdreg."""
    top = module.partition(".")[0]
    if top == "__main__" or not top:
        return False
    if top in ("builtins", "xdreg"):
        return True
    places = [getattr(sys.modules.get(top), "__file__", None)]
    if top in sys.stdlib_module_names:
        # A user's module may have the same name. Built-in ones have no file.
        folder = sysconfig.get_path("stdlib")
        return places[0] is None or Path(places[0]).is_relative_to(folder)
    # Modules that load lazily do not say where they are.
    spec = importlib.machinery.PathFinder.find_spec(top)
    if spec is not None:
        places += [spec.origin, *(spec.submodule_search_locations or ())]
    parts = {part for place in places if place for part in Path(place).parts}
    return not parts.isdisjoint({"site-packages", "dist-packages"})


@functools.lru_cache(maxsize=1024)
def installed_version(module: str) -> str:
    """Return the version of the package that a module belongs to."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names and is_installed(module):
        return "{}.{}".format(*sys.version_info)
    found = getattr(sys.modules.get(top), "__version__", None)
    if found is None:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.version(top)
    return str(found)


def _holds(module: Any, name: str, value: Any) -> bool:
    return getattr(module, "__dict__", {}).get(name) is value


def _listed(reduced: tuple[Any, ...]) -> list[Any]:
    """Return the five parts of a reduced object, its items as lists."""
    make, given, state, items, pairs, *_ = (*reduced, None, None, None)
    return [make, given, state, list(items or ()), dict(pairs or ())]


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode("utf-8", "replace")
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
