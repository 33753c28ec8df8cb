"""Reports of earlier schema versions: their keys become those of the present version when they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..modeling.deprecation import warn_renamed


# Former name of a condition: its present name.
_CONDITIONS = {"reads_off": "memory_off", "half_reads": "memory_half"}
_KEYS = {"conditions": "requested_conditions", "columns": "conditions", "not_heard": "not_scored"}
_PROTOCOL_KEYS = {"heard_seconds": "turn_seconds"}


def with_present_keys(content: Any) -> Any:
    """The content of a report of any version with the keys of the present one.

    Versions 2 and 3 differ only in keys, so version 2 becomes 3. Version 1 defines a condition differently and is not
    changed. Content that is not a report is returned unchanged, for the check of the schema.
    """
    if not isinstance(content, dict) or "columns" not in content:
        return content
    changed = {
        "schema_version": lambda version: "3.0" if str(version).startswith("2.") else version,
        "protocol": lambda protocol: _renamed(protocol, _PROTOCOL_KEYS),
        "requested_conditions": lambda names: [*map(_present_name, names)] if isinstance(names, list) else names,
        "conditions": _with_names,
        "differences": _with_names,
        "dimensions": lambda dimensions: _each(dimensions, _with_names),
        "groups": lambda groups: _each(groups, lambda group: _each(group, _with_group_names)),
    }
    return {key: changed[key](value) if key in changed else value for key, value in _renamed(content, _KEYS).items()}


def with_present_conditions(prediction: dict) -> dict:
    """A scored turn of a report of any version with the names of conditions of the present one."""
    kept = {"predicted", "probabilities"} & prediction.keys()
    return prediction | {name: _with_names(prediction[name]) for name in kept}


def present_names(conditions: Sequence[str]) -> list[str]:
    """Names of conditions, with a DeprecationWarning for former ones."""
    names = [*map(_present_name, conditions)]
    for former, name in zip(conditions, names):
        if former != name:
            warn_renamed(f"The condition {former}", name)
    return names


def _present_name(name: Any) -> Any:
    return _CONDITIONS.get(name, name) if isinstance(name, str) else name


def _renamed(content: Any, names: dict[str, str]) -> Any:
    return {names.get(key, key): value for key, value in content.items()} if isinstance(content, dict) else content


def _with_names(content: Any) -> Any:
    return _renamed(content, _CONDITIONS)


def _with_group_names(group: Any) -> Any:
    return group | {"conditions": _with_names(group.get("conditions"))} if isinstance(group, dict) else group


def _each(content: Any, change: Callable[[Any], Any]) -> Any:
    return {key: change(value) for key, value in content.items()} if isinstance(content, dict) else content
