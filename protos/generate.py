"""Generate the protobuf code: `python -m limbeck.protos.generate`. With --check, compare; exit 1 if they differ."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("limbeck", "link", "teacher")
# Sources that define a gRPC service; their stubs are generated too.
SERVICES = ("teacher",)
GENERATED = tuple(f"{name}_pb2{end}" for name in SOURCES for end in (".py", ".pyi")) + tuple(
    f"{name}_pb2_grpc.py" for name in SERVICES
)


def generate(out: Path) -> None:
    """Write the generated modules into `out`. Needs grpcio-tools, a development dependency."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-Ilimbeck/protos={FOLDER}"]
    command += [f"--python_out={out}", f"--pyi_out={out}"]
    for name in SOURCES:
        stubs = [f"--grpc_python_out={out}"] if name in SERVICES else []
        subprocess.run([*command, *stubs, f"limbeck/protos/{name}.proto"], check=True)


def main() -> int:
    """Run the command; its exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        generate(Path(temporary))
        fresh = {name: (Path(temporary) / "limbeck" / "protos" / name).read_text() for name in GENERATED}
    if "--check" in sys.argv:
        stale = [name for name in GENERATED if not (FOLDER / name).exists() or (FOLDER / name).read_text() != fresh[name]]
        for name in stale:
            print(
                f"Expected protos/{name} as generated from its .proto; run python -m limbeck.protos.generate.",
                file=sys.stderr,
            )
        return 1 if stale else 0
    for name, text in fresh.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
