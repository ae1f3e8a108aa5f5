"""What a test depends on: every file of this project that could change its outcome, and one hash for all of them.

Found by reading, not by running: the imports of a module, wherever they stand in it, then theirs; modules that a text
names (`"app.main:create_app"`, `"from app.cli import main"`), which is how processes are started and attributes
patched; and the files that are no modules beside those found, as data or texts. It rather finds too much.
"""

import ast
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import accumulate
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(sorted({path.parent.name for path in ROOT.glob("*/*.py")} | {"tests"}))
# `package.module`, or `package import name`; the name of a package alone only where a text says nothing else
MENTION = re.compile(rf"(?<![\w./])(?:{'|'.join(PACKAGES)})(?:(?:\.\w+)+(?:\s+import\s+[\w, ]+)?|\s+import\s+[\w, ]+)")
# What every test depends on; not the versions of tools that only look at the code.
COMMON = ("requirements/runtime.lock", "requirements/dev.lock")
# Written by the gate itself.
RECORDS = (ROOT / "tests/gate/stamps.json", ROOT / "tests/gate/durations.json")


def digest(paths: Iterable[Path], alone: Iterable[Path] = ()) -> str:
    """One hash for the files with those they depend on, for files `alone`, and for what every test depends on."""
    found = hashlib.sha256()
    for path in sorted({*closure(paths), *alone, *(ROOT / name for name in COMMON)}):
        found.update(f"{path.relative_to(ROOT).as_posix()} {hash_of(path)}\n".encode())
    found.update(repr(sorted(configuration().items())).encode())
    return found.hexdigest()[:16]


def closure(paths: Iterable[Path]) -> set[Path]:
    """The files and those of the folders, and all that can be reached from them."""
    found: set[Path] = set()
    waiting = {file for path in paths for file in (files_of(path) if path.is_dir() else [path])}
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= reached_from(path) - found
    return found


@cache
def reached_from(path: Path) -> frozenset[Path]:
    """What a file reaches in one step."""
    if path.suffix != ".py":
        return frozenset()
    modules = {module for name in names_in(path) for module in modules_of(name)}
    return frozenset(modules | set(data_beside(path.parent)))


def names_in(path: Path) -> Iterator[str]:
    """The dotted names that a module imports or mentions; of `from a import b` both `a` and `a.b`."""
    nodes = list(ast.walk(ast.parse(path.read_bytes())))
    prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = ".".join([*package_of(path, node.level), *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from [node.value] if node.value in PACKAGES else []
            yield from (name for mention in MENTION.findall(node.value) for name in mentioned(mention))


def mentioned(text: str) -> Iterator[str]:
    """The names in `a.b`, and in `a.b import c, d`."""
    module, *names = re.findall(r"[\w.]+", text.replace(" import ", " ", 1))
    yield module
    yield from (f"{module}.{name}" for name in names)


def package_of(path: Path, level: int) -> list[str]:
    """The package that so many dots stand for."""
    return list(path.relative_to(ROOT).parts[:-level]) if level else []


@cache
def modules_of(name: str) -> frozenset[Path]:
    """The files that importing a dotted name reads; all in it if it is a folder that is not a package."""
    found: set[Path] = set()
    for dotted in accumulate(name.split("."), "{}/{}".format):
        folder = ROOT / dotted
        found |= {path for path in (folder.with_suffix(".py"), folder / "__init__.py") if path.is_file()}
    if (folder := ROOT / name.replace(".", "/")).is_dir():
        starts = folder / "__main__.py"
        is_package = (folder / "__init__.py").is_file() or folder == ROOT / "tests"
        found |= {starts} & {*folder.glob("*.py")} if is_package else {*folder.rglob("*.py")}
    return frozenset(found)


@cache
def data_beside(folder: Path) -> frozenset[Path]:
    """The files of a folder that are no modules, with those of folders in it that hold no module."""
    found = {path for path in folder.iterdir() if path.is_file() and path.suffix not in {".py", ".pyc", ".md"}}
    for other in folder.iterdir():
        if other.is_dir() and not other.name.startswith(("__", ".")) and not [*other.rglob("*.py")]:
            found |= {path for path in other.rglob("*") if path.is_file() and path.suffix != ".md"}
    return frozenset(found - set(RECORDS)) if folder != ROOT else frozenset()


@cache
def hash_of(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def configuration() -> dict[str, object]:
    """How pytest is set up."""
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    return found


def tree() -> str:
    """One hash for the whole project as it is on the disk, but for what is made from it."""
    found = hashlib.sha256()
    for path in sorted(files_of(ROOT)):
        found.update(f"{path.relative_to(ROOT).as_posix()} {hash_of(path)}\n".encode())
    return found.hexdigest()[:16]


def files_of(folder: Path) -> Iterator[Path]:
    """The files below a folder; no hidden ones, no bytecode, no database."""
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix in {".db", ".db-wal", ".db-shm"}:
            continue
        if path.is_dir():
            yield from files_of(path)
        else:
            yield path
