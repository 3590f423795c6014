"""Options files: the arguments of a run as TOML or YAML.

A file holds the arguments of ``xdreg register`` by their names in Python, and a table
per stage with its ``kind``, the name of its class. Paths are relative to the file. A
file that a run writes holds every option as decided, and gives the same result again.

::

    fixed = "fixed.ome.zarr"
    moving = "moving.ome.zarr"
    output = "out"

    [[stages]]
    kind = "Affine"

    [[stages]]
    kind = "LocalCorrelation"
    level = 1
"""

from __future__ import annotations

import importlib
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg import stages
from xdreg.errors import InputError, StoreError
from xdreg.stages import CENTERS, Blockwise, Custom
from xdreg.stores.paths import as_address, is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xdreg.registration.plan import Plan
    from xdreg.registration.planned_stage import PlannedStage
    from xdreg.stages import Stage

#: Classes of stages by their names in a file.
KINDS: Mapping[str, type[Stage]] = {
    kind.__name__: kind
    for kind in (
        *(stages.Translation, stages.Rigid, stages.Similarity, stages.Affine),
        *(stages.LocalCorrelation, stages.BSpline, stages.Consensus, stages.Custom),
    )
}

#: Options of a file other than stages. `PATHS` are those that are paths.
PATHS = ("fixed", "moving", "output", "fixed_mask", "moving_mask", "initial", "workdir")
_OTHERS = (
    *("metric", "block_shape", "overlap", "channel", "moving_channel", "retry"),
    *("finest_level", "allow_mirror", "workers", "memory"),
)
NAMES = (*PATHS, *_OTHERS)

#: Most values in a file.
MOST_VALUES = 10**5

#: Values of a mask and of a start that are no paths.
NO_PATHS = ("auto", "none", *CENTERS)

#: Options that are not written: some belong to one run, others are in each stage.
_NOT_WRITTEN = (
    *("workdir", "retry", "workers", "memory"),
    *("metric", "block_shape", "overlap", "finest_level"),
)

_SUFFIXES = (".toml", ".yaml", ".yml")

#: Layout of YAML: the order given, and short lists on one line.
_YAML: Mapping[str, Any] = {
    "sort_keys": False,
    "allow_unicode": True,
    "default_flow_style": None,
}


def read_options(path: Path) -> dict[str, Any]:
    """Return the values of an options file by name; ``stages`` is a list of stages."""
    values = _load(path)
    unknown = sorted(values.keys() - {*NAMES, "stages"})
    if unknown:
        msg = f"{path} has {unknown[0]!r}; expected {', '.join(NAMES)}, stages"
        raise InputError(msg)
    for name in PATHS:
        if name in values:
            values[name] = _absolute(values[name], name, path)
    if "stages" in values:
        tables = values["stages"]
        if not isinstance(tables, list):
            msg = f"{path}: stages must be a list of tables with a kind, got {tables!r}"
            raise InputError(msg)
        values["stages"] = [
            _stage(table, f"{path}: stage {number}", path)
            for number, table in enumerate(tables)
        ]
    return values


def check_options_file(path: Path | None, *, overwrite: bool) -> None:
    """Raise if an options file cannot be written, before anything runs."""
    if path is not None:
        from xdreg.stores.outputs import check_file

        _check_suffix(path)
        check_file(path, overwrite=overwrite)


def write_options(
    path: Path, values: Mapping[str, Any], plan: Plan, *, overwrite: bool
) -> None:
    """Write the options of a run, by their `NAMES`, and the stages of its plan."""
    import tomli_w
    import yaml

    from xdreg.stores.outputs import new_file

    _check_suffix(path)
    given = {
        name: values[name]
        for name in NAMES
        if name not in _NOT_WRITTEN and values.get(name) not in (None, False)
    }
    for name in PATHS:
        if name in given and given[name] not in NO_PATHS:
            place = as_address(given[name])
            given[name] = place if is_remote(place) else str(local_path(place))
    given["stages"] = [stage_table(stage) for stage in plan.stages]
    toml = path.suffix == ".toml"
    text = tomli_w.dumps(given) if toml else yaml.safe_dump(given, **_YAML)
    with new_file(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def stage_table(stage: PlannedStage) -> dict[str, Any]:
    """Return the kind and all options of a planned stage, as in a file."""
    options = stage.options
    table: dict[str, Any] = {"kind": type(options).__name__}
    for entry in fields(options):
        value = getattr(options, entry.name)
        if value is not None:
            table[entry.name] = list(value) if isinstance(value, tuple) else value
    if isinstance(options, Blockwise):
        for name in ("block_shape", "overlap", "field_step"):
            table[name] = list(getattr(stage.partition, name))
    if isinstance(options, Custom):
        table["method"] = _name_of(options.method)
        table["options"] = dict(options.options)
        if callable(options.reduction):
            table["reduction"] = _name_of(options.reduction)
    return table


def _load(path: Path) -> dict[str, Any]:
    import tomllib

    import yaml

    _check_suffix(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"the options file {path} cannot be read: {error}"
        raise StoreError(msg) from error
    toml = path.suffix == ".toml"
    try:
        found = tomllib.loads(text) if toml else yaml.safe_load(text) or {}
    # Numbers, dates and nesting that Python refuses have errors of their own.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "TOML" if toml else "YAML"
        msg = f"{path} is not {kind}: {' '.join(str(error).split())}"
        raise StoreError(msg) from error
    if not isinstance(found, dict):
        msg = f"{path} holds {type(found).__name__}; expected options by their names"
        raise InputError(msg)
    _check_size(found, path)
    return {str(name): value for name, value in found.items()}


def _check_size(found: Any, path: Path) -> None:
    """Raise if the references of YAML multiply to more values than can be meant."""
    values, count = [found], 0
    while values:
        value, count = values.pop(), count + 1
        if count > MOST_VALUES:
            msg = f"{path} holds over {MOST_VALUES} values with its references followed"
            raise StoreError(msg)
        if isinstance(value, dict | list):
            values += value.values() if isinstance(value, dict) else value


def _check_suffix(path: Path) -> None:
    if path.suffix not in _SUFFIXES:
        msg = f"an options file ends in {', '.join(_SUFFIXES)}; got {path}"
        raise InputError(msg)


def _absolute(value: Any, name: str, file: Path) -> str:
    if not isinstance(value, str):
        msg = f"{file}: {name} must be a path as text, got {value!r}"
        raise InputError(msg)
    takes_names = name == "initial" or name.endswith("_mask")
    if is_remote(value) or (takes_names and value in NO_PATHS):
        return value
    return str(local_path(as_address(value, name), file.absolute().parent))


def _stage(table: Any, where: str, file: Path) -> Stage:
    if not isinstance(table, dict) or str(table.get("kind")) not in KINDS:
        msg = f"{where} is {table!r}; expected a table with a kind: {', '.join(KINDS)}"
        raise InputError(msg)
    kind = KINDS[table["kind"]]
    given = {str(name): value for name, value in table.items() if name != "kind"}
    known = [entry.name for entry in fields(kind)]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        msg = f"{where}, {kind.__name__}, has {unknown[0]!r}; expected {known}"
        raise InputError(msg)
    marks = given.get("landmarks")
    if isinstance(marks, str):
        given["landmarks"] = _absolute(marks, "landmarks", file)
    elif isinstance(marks, list):
        given["landmarks"] = [_absolute(path, "landmarks", file) for path in marks]
    if kind is Custom:
        given["method"] = _function(given.get("method"), where)
        if ":" in str(given.get("reduction")):
            given["reduction"] = _function(given["reduction"], where)
    try:
        return kind(**given)
    except InputError as error:
        msg = f"{where}: {error}"
        raise InputError(msg) from error


def _function(name: Any, where: str) -> Any:
    """Import the function named ``"module:function"``."""
    module, colon, function = str(name).partition(":")
    if not (isinstance(name, str) and module and colon and function):
        msg = f"{where}: a function must be named as 'module:function', got {name!r}"
        raise InputError(msg)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        msg = (
            f"{where}: the function {name} cannot be imported: {error}; install its "
            "package, or name its folder in PYTHONPATH"
        )
        raise InputError(msg) from error


def _name_of(method: Any) -> str:
    module = getattr(method, "__module__", None)
    name = getattr(method, "__qualname__", None) or ""
    if not module or module == "__main__" or not name.isidentifier():
        msg = f"{method!r} cannot be imported by name; define it in a module"
        raise InputError(msg)
    return f"{module}:{name}"
