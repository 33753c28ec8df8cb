"""Compare the options recorded in a folder with those of the present run."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def differing_options(
    then: Mapping[str, object], now: Mapping[str, object], *, ignored: Collection[str] = ()
) -> dict[str, str]:
    """The options that differ, by name, each with both values as text for a message.

    Args:
        then: recorded options. An option that one of both lacks has the value None.
        now: options of this run, as they are recorded (lists rather than tuples).
        ignored: names of options that may differ.
    """
    return {
        name: f"{name}: {then.get(name)} then, {now.get(name)} now"
        for name in {**now, **then}
        if name not in ignored and then.get(name) != now.get(name)
    }
