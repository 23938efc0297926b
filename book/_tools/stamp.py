"""The stamp of an executed chapter: what it ran on, so that anyone can tell when it is stale."""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import re
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from _tools.chapters import Book, Chapter

STAMPED_VERSIONS = ("torch", "numpy", "scipy", "matplotlib", "seaborn")


def digest(content: str | bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of ``content``."""
    raw = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:16]


def _module_file(book: Book, module: str) -> Path | None:
    base = book.root / "lib" / Path(*module.split("."))
    candidates = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in candidates if path.exists()), None)


def _imported(tree: ast.AST, package: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parents) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def library(chapter: Chapter) -> dict[str, Path]:
    """Return the library's modules that a chapter imports, directly or not, and their files.

    Only these make it stale: a change of the pathways leaves the chapters on IAM alone.
    """
    found: dict[str, Path] = {}
    waiting = _imported(ast.parse(chapter.code()), "")
    while waiting:
        module = waiting.pop()
        parent = module.rpartition(".")[0]
        if parent and parent not in found:
            waiting.add(parent)
        path = _module_file(chapter.book, module)
        if path is None or module in found:
            continue
        found[module] = path
        package = module if path.name == "__init__.py" else parent
        waiting |= _imported(ast.parse(path.read_text("utf-8")), package)
    return dict(sorted(found.items()))


def data_files(chapter: Chapter, modules: dict[str, Path]) -> dict[str, Path]:
    """Return the data a chapter reads, by name.

    They lie beside the modules it imports, or in a folder beside one that the module names; or
    under ``book/results``, where a string in its code names them, or is a pattern that they match:
    ``"*/*.json"`` stands for the records of all runs, and in a chapter that calls ``recorded`` the
    name of a recipe, wherever it stands, for those of the recipe.
    """
    found: dict[str, Path] = {}
    for module in modules.values():
        folders = re.findall(r'Path\(__file__\)\.with_name\("(\w+)"\)', module.read_text("utf-8"))
        inside = [path for name in folders for path in module.with_name(name).glob("*.toml")]
        found |= {path.name: path for path in [*module.parent.glob("*.npz"), *inside]}
    patterns = [
        text.rpartition("results/")[2]
        for text in re.findall(r"""["']([^"']+\.json)["']""", chapter.code())
    ]
    results = chapter.book.pages / "results"
    if re.search(r"\brecorded\(", chapter.code()):
        words = set(re.findall(r"""["']([\w-]+)["']""", chapter.code()))
        patterns += [f"{word}/*.json" for word in words if (results / word).is_dir()]
    for path in results.rglob("*.json"):
        name = path.relative_to(results)
        if any(len(Path(p).parts) == len(name.parts) and name.match(p) for p in patterns):
            found[name.as_posix()] = path
    return dict(sorted(found.items()))


def rule(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what of a claim's entry its verdict speaks of: what is said, compared and allowed."""
    return {key: entry.get(key) for key in ("statement", "check", "tolerance", "scale")}


def inputs(chapter: Chapter) -> dict[str, Any]:
    """Return the hashes of all that a chapter's outputs depend on.

    Prose is not among them: it can be mended without another run.
    """
    modules = library(chapter)
    data = data_files(chapter, modules)
    code, claims = chapter.code(), chapter.book.claims
    # Not only what the code names: it may put a claim's name together.
    reported = {
        id_: rule(entry) for id_, entry in claims.items() if entry.get("chapter") == chapter.name
    }
    return {
        "code": digest(code),
        "library": {module: digest(path.read_bytes()) for module, path in modules.items()},
        "data": {name: digest(path.read_bytes()) for name, path in data.items()},
        "rules": digest(json.dumps(reported, sort_keys=True)),
    }


def outputs(notebook: NotebookNode) -> str:
    """Return the hash of all that the cells of an executed notebook put out."""
    said = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return digest(json.dumps(said, sort_keys=True))


def differences(stamp: dict[str, Any], chapter: Chapter) -> list[str]:
    """Say what changed since the run that ``stamp`` tells of; nothing said means fresh.

    Of more than three files of one folder, such as the records of a recipe, only how many.
    """
    now = inputs(chapter)
    said = []
    if stamp.get("code") != now["code"]:
        said.append("its code changed")
    for kind in ("library", "data"):
        then = stamp.get(kind, {})
        changed = sorted(key for key in then | now[kind] if then.get(key) != now[kind].get(key))
        for folder, files in groupby(changed, lambda key: key.rpartition("/")[0]):
            names = [*files]
            if folder and len(names) > 3:
                names = [f"{len(names)} files of {folder}"]
            said += [f"{name} changed" for name in names]
    if stamp.get("rules") != now["rules"]:
        said.append("what one of its claims says, compares or allows changed in book/claims.yml")
    return said


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the numbers depend on."""
    found = {name: metadata.version(name) for name in STAMPED_VERSIONS}
    return {"python": platform.python_version(), **found}
