"""A training on a page runs in float64, so that it prints the same with other threads and versions.

In float32 one rounding takes a network to another error within a hundred steps; in float64 all
that such a training prints stays the same. ``tests/soak/threads.py`` measures it.
"""

import ast

import pytest

from _tools.chapters import HERE

TRAINING = {"Run", "Batches", "ensemble_batches", "train_ensemble"}


def float32_networks(cells):
    """The networks of flatlab.models that cells with a training build and leave in float32."""
    trees = [ast.parse(cell) for cell in cells]
    nodes = [[*ast.walk(tree)] for tree in trees]
    imports = [n for cell in nodes for n in cell if isinstance(n, ast.ImportFrom)]
    models = {a.name for n in imports if n.module == "flatlab.models" for a in n.names}
    for cell in nodes:
        calls = [n for n in cell if isinstance(n, ast.Call)]
        named = {n.func.id: n for n in calls if isinstance(n.func, ast.Name)}
        if not TRAINING & named.keys():
            continue
        wide = [n for n in calls if getattr(n.func, "attr", "") == "double"]
        inside = {part for call in wide for part in ast.walk(call)}
        for n in calls:
            if getattr(n.func, "id", "") in models and n not in inside:
                yield ast.unparse(n)


IMPORT = "from flatlab.models import mlp\nfrom flatlab.run import Run"


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("Run(mlp([2, 2]))", ["mlp([2, 2])"]),
        ("Run(mlp([2, 2]).double())", []),
        ("Run(mlp([2, 2])[:-1].double())", []),
        ("x = mlp([2, 2])", []),  # trains nothing
    ],
)
def test_a_network_in_float32_is_found(cell, found):
    assert [*float32_networks([IMPORT, cell])] == found


@pytest.mark.parametrize("chapter", HERE.find([]), ids=lambda c: c.name)
def test_trainings_are_in_float64(chapter):
    code = [cell.source for cell in chapter.source().cells if cell.cell_type == "code"]
    assert [*float32_networks(code)] == []
