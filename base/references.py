"""References to a user's code, as "module:function"."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limbeck.base.errors import SettingError


def load_function(reference: str, folder: Path | None = None, *, expected: str) -> Callable[..., Any]:
    """The function that settings name as "module:function": of a module file in `folder`, or else of an installed module.

    expected: what the function should be, for the error message, such as "a function (shape, classes) -> net". This is only ever called
    with the settings of a site's owner or a user: a plan cannot name code. Raises SettingError if there is no such function.
    """
    module_name, colon, name = reference.partition(":")
    if not (colon and module_name and name.isidentifier()):
        raise SettingError(f"Expected a factory as 'module:factory', got {reference!r}.")
    file = folder / f"{module_name}.py" if folder is not None else None
    try:
        if file is not None and file.exists():
            spec = importlib.util.spec_from_file_location(module_name, file)
            if spec is None or spec.loader is None:
                raise ImportError(f"{file} is no module")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
        factory = getattr(module, name)
    except Exception as error:  # whatever a user's module raises while it is imported
        raise SettingError(f"Expected a factory at {reference!r}: {type(error).__name__}: {error}.") from error
    if not callable(factory):
        raise SettingError(f"Expected {reference!r} to be {expected}, got {type(factory).__name__}.")
    loaded: Callable[..., Any] = factory
    return loaded
