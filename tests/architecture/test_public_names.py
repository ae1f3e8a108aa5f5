"""A module has an inside: what nobody else uses is private, and what is private nobody else uses."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("app", "benchmarks", "migrations", "tests")
# Functions and classes that are registered by what decorates them have their use there; these decorators register none.
PLAIN = {"dataclass", "contextmanager", "asynccontextmanager", "cache", "lru_cache"}
# Tables, bodies of requests and replies, and errors are the interface, used here or not.
INTERFACE = ("app/models/", "app/schemas/", "app/ims_cat/schemas.py", "app/http/ims_status.py", "app/core/errors.py")
MENTION = re.compile(r"\b(app(?:\.\w+)+)[.:](\w+)|from (app(?:\.\w+)*) import \(?([\w,\s]+)")

Name = tuple[str, str]


def module_of(path: Path) -> str:
    """The dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def trees() -> dict[Path, ast.Module]:
    """All source files."""
    return {path: ast.parse(path.read_text()) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def definitions(tree: ast.Module) -> Iterator[str]:
    """The functions and classes of a module that only their name leads to."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            decorators = {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}
            if decorators <= PLAIN:
                yield node.name


def faces(tree: ast.Module) -> set[str]:
    """What a module lists in `__all__`."""
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    return {name for listed in lists for name in ast.literal_eval(listed)}


def uses(tree: ast.Module) -> Iterator[Name]:
    """What a module imports, by module and name; reaches through an imported module; or names in a text."""
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from mentions(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            yield imported[node.value.id], node.attr


def mentions(text: str) -> Iterator[Name]:
    """The names of this program in a text."""
    for module, name, package, names in MENTION.findall(text):
        yield from [(module, name)] if module else ((package, each.strip()) for each in names.split(","))


def used_elsewhere() -> set[Name]:
    """What is used outside its own module, in code, in documents or in the configuration."""
    found = {use for tree in trees().values() for use in uses(tree)}
    texts = [
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("*.md"),
        ROOT / "pyproject.toml",
        ROOT / "Makefile",
        ROOT / "Dockerfile",
    ]
    return found | {name for path in texts for name in mentions(path.read_text())}


def test_public_names_are_used_elsewhere_or_are_in_all() -> None:
    used = used_elsewhere()
    unused = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, tree in trees().items()
        if path.is_relative_to(ROOT / "app") and not path.relative_to(ROOT).as_posix().startswith(INTERFACE)
        for name in definitions(tree)
        if not name.startswith("_") and (module_of(path), name) not in used and name not in faces(tree)
    ]
    assert unused == [], "begin these names with an underscore"


def test_modules_import_no_private_names_of_another() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path, tree in trees().items()
        if path.is_relative_to(ROOT / "app")
        for module, name in uses(tree)
        if module.startswith("app.") and re.match(r"_[a-z]", name) and module != module_of(path)
    ]
    assert found == []


@pytest.mark.controls
def test_checks_of_public_names_notice_unused_and_private_ones() -> None:
    source = "__all__ = ['a']\ndef a(): ...\ndef b(): ...\n@router.get('/')\ndef c(): ...\n@dataclass(frozen=True)\n"
    tree = ast.parse(f"{source}class D: ...")
    assert [*definitions(tree)] == ["a", "b", "D"]
    assert faces(tree) == {"a"}
    code = (
        "from app.core import times\nfrom app.group_commit import GroupCommit\ntimes.now()\nx = 'app.main:create_app'"
    )
    assert {("app.core.times", "now"), ("app.group_commit", "GroupCommit"), ("app.main", "create_app")} <= {
        *uses(ast.parse(code))
    }
