"""`python -m simulations NAME [options]` runs the module of that name here; without one it lists what there is."""

import ast
import importlib
import sys
from pathlib import Path


def programs() -> dict[str, str]:
    """Name -> first line of the docstring, of every module here that has a `main`; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem.replace("_", "-")] = (ast.get_docstring(tree) or "").split("\n")[0]
    return {name: text for name, text in found.items() if name != "--main--"}


def main(argv: list[str]) -> int:
    """Exit code of the program that was named; 2 when there is none of that name."""
    known = programs()
    if not argv or argv[0] not in known:
        if argv and argv[0] not in ("-h", "--help"):
            print(f"no simulation is called {argv[0]!r}", file=sys.stderr)
        print("usage: python -m simulations NAME [options]\n")
        for name, text in known.items():
            print(f"  {name:18s} {text}")
        return 0 if not argv or argv[0] in ("-h", "--help") else 2
    module = importlib.import_module("simulations." + argv[0].replace("-", "_"))
    code: int = module.main(argv[1:])
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
