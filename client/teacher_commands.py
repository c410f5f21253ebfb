"""`limbeck teacher`: begin a net of one's own, and learn what is wrong with it before a site uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.operators.errors import SettingError

app = typer.Typer(help="A site's own net: a template and a test kit.", no_args_is_help=True)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="The Python file to write.")] = Path("my_teacher.py")) -> None:
    """Write a template of a net to begin with."""
    from limbeck.client.teachers.kit import TEMPLATE

    if not path.stem.isidentifier() or path.suffix != ".py":
        raise SettingError(f"Expected a file name such as my_teacher.py, got {path.name!r}.")
    if path.exists():
        raise SettingError(f"Expected no file at {path} yet, found one.")
    path.write_text(TEMPLATE.replace("{module}", path.stem), encoding="utf-8")
    print(f"{path}: edit it, then: limbeck teacher check {path.stem}:build")


@app.command()
def check(
    factory: Annotated[
        str, typer.Argument(help="module:factory; the module is looked for in --folder, then among those installed.")
    ],
    shape: Annotated[str, typer.Option(help="Of one input: 1x28x28 for grey images, 54 for rows.")] = "1x28x28",
    classes: Annotated[int, typer.Option(min=2)] = 10,
    folder: Annotated[Path, typer.Option(help="Where the module's file is, such as the site's folder.")] = Path(),
) -> None:
    """Say what is wrong with a net, or that it can be trained; exit status 1 where it cannot."""
    from limbeck.client.teachers import architectures, kit

    try:
        sides = tuple(int(side) for side in shape.split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in {1, 3} or min(sides) < 1:
        raise SettingError(f"Expected --shape such as 1x28x28 or 54, got {shape!r}.")
    net = architectures.build("custom", sides, classes, architectures.load_factory(factory, folder))
    problems = kit.examine(net, sides, classes)
    if problems:
        raise SettingError(
            "\n".join([f"{factory} cannot be trained under differential privacy:", *(f"- {each}" for each in problems)])
        )
    weights = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    print(f"{factory} can be trained: {weights:,} weights, {classes} classes, inputs of shape {shape}.")
