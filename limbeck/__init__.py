"""Privacy-preserving federated distillation, from Python: simulate a federation, read what a run left, use its student.

    import limbeck

    run = limbeck.simulate("digits-tiny", out="runs/first")
    print(run.epsilons, run.report)
    student = limbeck.load_student("runs/first")

`import limbeck` is quick: every name is loaded when it is first used. docs/api.md explains them, with examples that the tests run.
What is not in `__all__` may change with any release.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limbeck import operators
    from limbeck.base.errors import LimbeckError
    from limbeck.server.exported import Student, load_student
    from limbeck.simulations.finished import Run, load_run, simulate
    from limbeck.simulations.scenario import Scenario

    __version__: str

__all__ = [
    "LimbeckError",
    "Run",
    "Scenario",
    "Student",
    "__version__",
    "load_run",
    "load_student",
    "operators",
    "simulate",
]

# The module of each name, so that nothing heavy is loaded before it is needed.
_MODULES = {
    "LimbeckError": "limbeck.base.errors",
    "Run": "limbeck.simulations.finished",
    "Scenario": "limbeck.simulations.scenario",
    "Student": "limbeck.server.exported",
    "load_run": "limbeck.simulations.finished",
    "load_student": "limbeck.server.exported",
    "simulate": "limbeck.simulations.finished",
}

# In a checkout the packages stand beside this folder, not in it. Python started there finds this folder before an installed limbeck.
_checkout = Path(__file__).parent.parent
if (_checkout / "protos" / "limbeck.proto").is_file():
    __path__.append(str(_checkout))

if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            value = version("limbeck")
        elif name == "operators":
            value = import_module("limbeck.operators")
        elif name in _MODULES:
            value = getattr(import_module(_MODULES[name]), name)
        else:
            raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
