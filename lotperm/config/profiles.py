"""Profiles: the sizes at which the same protocol is run, and their former names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

_Name = Literal["smoke", "laptop", "desktop", "paper"]

PROFILES: tuple[str, ...] = get_args(_Name)
"""Names of the profiles, from the smallest to the largest."""

DEFAULT_PROFILE = "laptop"

# Campaigns, notebooks and records may have names of an earlier version. The book also calls one
# kind of number "live", so the profile was renamed.
_ONCE = {"live": "laptop"}


def current_profile(name: Any) -> Any:
    """Return today's name of a profile.

    Parameters
    ----------
    name : object
        The name as given. Anything but an old name is returned unchanged: it is checked elsewhere.
    """
    return _ONCE.get(name, name) if isinstance(name, str) else name


def with_current_profile(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded experiment, plain JSON data, with today's name of its profile."""
    given = dict(experiment)
    return given | {"profile": current_profile(given["profile"])} if "profile" in given else given


# The type of a parameter that is the name of a profile; an old name is understood.
Profile = Annotated[_Name, BeforeValidator(current_profile)]
