"""`limbeck operators`: list the operators, check the axioms of one, also of your own, and draw the families."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.base.errors import SettingError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from limbeck.operators import SoftenThenTruncate, axioms

app = typer.Typer(
    help="""Softening operators: list them, check the axioms, draw the families.

    \b
    Examples:
      limbeck operators list
      limbeck operators check hybrid
    """,
    no_args_is_help=True,
)

# Not softening operators. They are here for comparison: the check fails and shows a counterexample.
_OTHERS = {
    "top-k:K": "not a softening operator: power, then the top K renormalised",
    "nucleus:MASS": "not a softening operator: power, then the nucleus renormalised",
    "sparsemax": "not a softening operator: the point of the simplex nearest to log(p) / T",
    "arg-max": "not a softening operator: one-hot at the largest probability",
}


def known() -> dict[str, str]:
    """What `factory` takes by name, and what each is."""
    from limbeck.operators import Family

    families = {f"{each.value}:Q" if each.takes_order else each.value: f"{each.formula}; {each.domain}" for each in Family}
    return families | _OTHERS


@app.command("list")
def list_() -> None:
    """List the operators that have a name.

    \b
    Examples:
      limbeck operators list
    """
    from limbeck.base.listing import listing
    from limbeck.base.printable import plain_console

    listing(plain_console(), ["name", "what it is"], list(known().items()), wrap="what it is")


@app.command("check")
def check_(
    which: Annotated[
        str,
        typer.Argument(
            metavar="NAME|MODULE:OBJECT", help="A name from the list, or your own function from T to an operator."
        ),
    ],
    single: Annotated[bool, typer.Option("--float32", help="Compute in float32 instead of float64.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of the random search; more rounds find more.")] = 60,
    seed: Annotated[int, typer.Option(help="The seed of the random search.")] = 0,
) -> None:
    """Search for a counterexample to each of the five axioms. Exit status 1 if one is found.

    \b
    Examples:
      limbeck operators check hybrid
      limbeck operators check tsallis:0.5 --rounds 200 --float32
      limbeck operators check my_operators:too_warm
    """
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from limbeck.operators import axioms

    make = factory(which)
    report = axioms.check(make, dtype=torch.float32 if single else torch.float64, rounds=rounds, seed=seed)
    console = Console()
    table = Table("axiom", "verdict", "trials", "worst seen", "allowed", "unit")
    for finding in report.findings:
        verdict = "[red]broken[/red]" if not finding.holds else "no violation" if finding.trials else "not checked"
        worst, allowed = (f"{value:.3g}" if finding.trials else "" for value in (finding.worst, finding.tolerance))
        table.add_row(finding.axiom.value, verdict, f"{finding.trials:,}", worst, allowed, finding.unit)
    console.print(
        f"[bold]{escape(which)}[/bold], {report.dtype}, T from {report.lowest:.3g} to {report.highest:.3g}", highlight=False
    )
    console.print(table)
    for finding in report.findings:
        if finding.note:
            console.print(f"{finding.axiom.value}: {finding.note}.", highlight=False, markup=False)
        if finding.counterexample is not None:
            _show(console, finding.counterexample)
    if hasattr(make(max(report.lowest, 1.0)), "log_weight"):
        _show_majorisation(console, axioms.majorisation(make))
    if not report.holds:
        raise typer.Exit(1)


@app.command()
def plot(
    out: Annotated[Path, typer.Argument(help="The picture to write: a .png or .svg file.")] = Path("operators.png"),
) -> None:
    """Draw the families side by side: paths on the simplex of three classes as T rises, and entropy against T.

    \b
    Examples:
      limbeck operators plot
      limbeck operators plot families.svg
    """
    from limbeck.cli import families

    families.draw(out)
    print(out)


def factory(which: str) -> Callable[[float], Any]:
    """A function from T to an operator, by name or from MODULE:OBJECT. Raises: SettingError if `which` is neither."""
    from limbeck.operators import (
        ArgMax,
        Family,
        Nucleus,
        Power,
        Renormalised,
        SoftenThenTruncate,
        Sparsemax,
        TopK,
        Truncation,
    )

    truncations: dict[str, Callable[[str], Truncation]] = {
        "top-k": lambda text: Renormalised(TopK(int(text))),
        "nucleus": lambda text: Renormalised(Nucleus(float(text))),
    }
    name, colon, rest = which.partition(":")
    ordered = {each.value: each for each in Family if each.takes_order}
    plain: dict[str, Callable[[float], Any]] = {
        **{each.value: each.at for each in Family if not each.takes_order},
        "sparsemax": Sparsemax,
        "arg-max": lambda t: ArgMax(),
    }
    if not colon and name in plain:
        return plain[name]
    if name in ordered or name in truncations:
        try:
            if name in ordered:
                return partial(ordered[name].at, order=float(rest))
            truncation = truncations[name](rest)
        except ValueError as error:
            if isinstance(error, SettingError):
                raise
            raise SettingError(f"Expected a number after {name}:, got {rest!r}.") from None
        return lambda t: _dense(SoftenThenTruncate(softening=Power(t), truncation=truncation))
    if not colon:
        raise SettingError(f"Expected MODULE:OBJECT or one of {', '.join(known())}, got {which!r}.")
    # A user's module is usually in the current folder, which a console script does not search.
    sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(name)
        for part in rest.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingError(f"Expected an importable MODULE:OBJECT, got {which!r}: {error}.") from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise SettingError(f"Expected {which} to be a function from T to an operator, got {found!r}.")
    return found  # type: ignore[no-any-return]


def _dense(chain: SoftenThenTruncate) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda p_NK: chain(p_NK).dense()


def _show(console: Console, example: axioms.Counterexample) -> None:
    from rich.markup import escape

    console.print(f"\n[bold red]{example.axiom.value}[/bold red]: {escape(example.what)}", highlight=False)
    temperatures = f"T = {example.temperature!r}"
    if example.other_temperature is not None:
        temperatures += f", T' = {example.other_temperature!r}"
    console.print(
        f"  size {example.size:.6g} {example.unit}, allowed {example.tolerance:.3g}; {temperatures}", highlight=False
    )
    for label, p_K in (("p ", example.p_K), ("p'", example.other_p_K)):
        if p_K is not None:
            shown = ", ".join(f"{value:.17g}" for value in p_K[:12].tolist())
            more = f", … of {len(p_K)} classes" if len(p_K) > 12 else ""
            console.print(f"  {label} = [{shown}{more}]", highlight=False, markup=False, soft_wrap=True)


def _show_majorisation(console: Console, found: axioms.Majorisation) -> None:
    """Show the sufficient condition of a separable family. A failure of it is not by itself a violation of an axiom."""
    grid = f"on a grid of {found.points} p and {found.temperatures} T"
    for what, failure in (("f_T rises in p", found.increasing), ("f_T'/f_T does not rise in p", found.ratio)):
        if failure is None:
            console.print(f"Majorisation: {what} {grid}.", highlight=False)
        else:
            other = f", T' = {failure.other_temperature:.6g}" if failure.other_temperature is not None else ""
            console.print(
                f"Majorisation: it does not hold that {what}: between p = {failure.p:.6g} and {failure.other_p:.6g} at "
                f"T = {failure.temperature:.6g}{other}, by {failure.size:.3g} in log f.",
                highlight=False,
            )
