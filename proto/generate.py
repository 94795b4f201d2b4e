"""Write ``src/keelway/wire`` from the sources in this folder, or say with ``--check`` that it is what they make.

The generated modules register their messages in a descriptor pool of keelway's own. In the default pool they would
clash with other clients of the same protocol in one process, which define the same names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from grpc_tools import protoc

SOURCES = Path(__file__).parent
WIRE = SOURCES.parent / "src" / "keelway" / "wire"
OWN_POOL = "from keelway.wire import POOL as _POOL\n"


def generate(folder: Path) -> None:
    """Generate every module into ``keelway/wire`` below ``folder``."""
    sources = [f"keelway/wire/{path.name}" for path in sorted(SOURCES.glob("*.proto"))]
    # The mapped path makes the modules know themselves as keelway.wire.*.
    arguments = ["protoc", f"-Ikeelway/wire={SOURCES}", f"--python_out={folder}", f"--pyi_out={folder}", *sources]
    if protoc.main(arguments):
        raise SystemExit("protoc failed")
    for module in folder.rglob("*_pb2.py"):
        text = module.read_text()
        text, pools = re.subn(r"_descriptor_pool\.Default\(\)", "_POOL", text)
        text, imports = re.subn(
            r"from google\.protobuf import descriptor_pool as _descriptor_pool\n", OWN_POOL, text, count=1
        )
        if not pools or not imports:
            raise SystemExit(f"{module.name} is not what this script expects of protoc")
        module.write_text(text)


def main(check: bool) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        generate(folder)
        wanted = {path.name: path.read_text() for path in folder.rglob("*_pb2.py*")}
    present = {path.name: path.read_text() for path in WIRE.glob("*_pb2.py*")}
    if check:
        if present != wanted:
            raise SystemExit("src/keelway/wire is not what proto/ makes: run `make wire`")
        return
    for name in present.keys() - wanted.keys():
        (WIRE / name).unlink()
    for name, text in wanted.items():
        (WIRE / name).write_text(text)


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
