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

For ``xdreg rounds`` the table ``rounds`` has the moving images by name. What may differ
by round, `BY_ROUND`, may be a table, too, with a value for some.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdreg import stages
from xdreg.errors import InputError, StoreError
from xdreg.stages import CENTERS, Blockwise, Custom
from xdreg.stores.paths import as_address, is_remote, local_path

if TYPE_CHECKING:
    from collections.abc import Callable

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

#: Table of moving images, and options that may be tables by their names.
ROUNDS = "rounds"
BY_ROUND = ("moving_mask", "initial", "moving_channel", "stages")

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
    unknown = sorted(values.keys() - {*NAMES, "stages", ROUNDS})
    if unknown:
        names = ", ".join((*NAMES, "stages", ROUNDS))
        msg = f"{path} has {unknown[0]!r}; expected {names}"
        raise InputError(msg)
    _check_by_round(values, path)
    for name in (*PATHS, ROUNDS):
        if name in values:
            change = partial(_absolute, path, name)
            values[name] = _each(name, values[name], change)
    if "stages" in values:
        values["stages"] = _each("stages", values["stages"], partial(_stages, path))
    return values


def _check_by_round(values: dict[str, Any], path: Path) -> None:
    """Name rounds by text; raise if they are no table, or another names one more."""
    for name in (ROUNDS, *BY_ROUND):
        if _is_table(values.get(name)):
            values[name] = {str(key): value for key, value in values[name].items()}
    if ROUNDS not in values:
        return
    rounds = values[ROUNDS]
    if not isinstance(rounds, dict) or not rounds:
        msg = f"{path}: rounds must be a table of paths by name, got {rounds!r}"
        raise InputError(msg)
    for name in BY_ROUND:
        given = values.get(name)
        unknown = sorted(set(given) - set(rounds)) if isinstance(given, dict) else []
        if unknown:
            msg = f"{path}: {name} names {unknown[0]!r}; rounds are {', '.join(rounds)}"
            raise InputError(msg)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _each(name: str, value: Any, change: Callable[[Any, str], Any]) -> Any:
    """Return a value changed, or each in a table by round.

    ``change`` also gets what says whose value it is, such as " of r2".
    """
    if name in (ROUNDS, *BY_ROUND) and _is_table(value):
        return {one: change(own, f" of {one}") for one, own in value.items()}
    return change(value, "")


def _stages(path: Path, tables: Any, whose: str) -> list[Stage]:
    """Return the stages that are listed in a file."""
    if not isinstance(tables, list):
        what = f"{path}: stages{whose}"
        msg = f"{what} must be a list of tables with a kind, got {tables!r}"
        raise InputError(msg)
    return [
        _stage(table, f"{path}: stage {number}{whose}", path)
        for number, table in enumerate(tables)
    ]


def check_for_a_pair(values: Mapping[str, Any], path: Path | None) -> None:
    """Raise if a file is for rounds, and a pair is to be registered."""
    tables = [name for name in BY_ROUND if _is_table(values.get(name))]
    if values.get(ROUNDS) is not None or tables:
        what = (tables or [ROUNDS])[0]
        msg = f"{path} has {what} by round, and is for xdreg rounds --options {path}"
        raise InputError(msg)


def check_options_file(path: Path | None, *, overwrite: bool) -> None:
    """Raise if an options file cannot be written, before anything runs."""
    if path is not None:
        from xdreg.stores.outputs import check_file

        _check_suffix(path)
        check_file(path, overwrite=overwrite)


def write_options(
    path: Path,
    values: Mapping[str, Any],
    plan: Plan | Mapping[str, Plan],
    *,
    overwrite: bool,
) -> None:
    """Write the options of a run, by their `NAMES`, and the stages of its plan.

    Of rounds there is a plan by name.
    """
    import tomli_w
    import yaml

    from xdreg.stores.outputs import new_file

    _check_suffix(path)
    given = {
        name: values[name]
        for name in (*NAMES, ROUNDS)
        if name not in _NOT_WRITTEN and _is_given(values.get(name))
    }
    for name in (*PATHS, ROUNDS):
        if name in given:
            given[name] = _each(name, given[name], partial(_written_path, name))
    # TOML has plain values before tables.
    given = dict(sorted(given.items(), key=lambda item: _is_table(item[1])))
    if isinstance(plan, Mapping):
        each = {name: _stage_tables(own) for name, own in plan.items()}
        one, *others = each.values()
        given["stages"] = one if all(other == one for other in others) else each
    else:
        given["stages"] = _stage_tables(plan)
    toml = path.suffix == ".toml"
    text = tomli_w.dumps(given) if toml else yaml.safe_dump(given, **_YAML)
    with new_file(path, overwrite=overwrite) as file:
        file.write_text(text, encoding="utf-8")


def _is_given(value: Any) -> bool:
    """Return whether a value is to be written; the channel 0 is."""
    return value is not None and value is not False and value != {}


def _written_path(name: str, value: Any, whose: str) -> str:
    """Return a path as a file has it."""
    if value in NO_PATHS:
        return str(value)
    place = as_address(value, name + whose)
    return place if is_remote(place) else str(local_path(place))


def _stage_tables(plan: Plan) -> list[dict[str, Any]]:
    return [stage_table(stage) for stage in plan.stages]


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


def _absolute(file: Path, name: str, value: Any, whose: str = "") -> str:
    if not isinstance(value, str):
        msg = f"{file}: {name}{whose} must be a path as text, got {value!r}"
        raise InputError(msg)
    takes_names = name in ("initial", "fixed_mask", "moving_mask")
    if is_remote(value) or (takes_names and value in NO_PATHS):
        return value
    return str(local_path(as_address(value, name + whose), file.absolute().parent))


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
        given["landmarks"] = _absolute(file, "landmarks", marks)
    elif isinstance(marks, list):
        given["landmarks"] = [_absolute(file, "landmarks", path) for path in marks]
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
