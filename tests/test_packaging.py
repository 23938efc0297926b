"""What the project says of itself in several places must agree."""

import re
from pathlib import Path

import pytest
import yaml

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its twin
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_and_pip_install_the_same():
    extras = PROJECT["optional-dependencies"]
    # Nobody but a maintainer needs mutmut, and only now and then.
    used = [line for name, extra in extras.items() if name != "mutation" for line in extra]
    wanted = {*PROJECT["dependencies"], *used}
    wanted = {line for line in wanted if not line.startswith("flatmin[")}
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, _, pip = environment["dependencies"]
    assert python == f"python{PROJECT['requires-python']}"
    assert set(pip["pip"]) == {*wanted, "-c constraints.txt", "-e ."}


def test_the_library_alone_needs_no_notebook_package_and_pins_nothing_from_above():
    names = {re.match(r"[a-z]+", line)[0]: line for line in PROJECT["dependencies"]}
    assert set(names) == {"torch", "numpy", "scipy"}
    assert not any("<" in line or "==" in line for line in names.values())


@pytest.mark.parametrize("package", ["flatmin", "flatlab", "flatbook"])
def test_each_package_knows_only_what_stands_below_it(package):
    strangers = {
        "flatmin": r"matplotlib|seaborn|pandas|IPython|papermill|sphinx|yaml|flatlab|flatbook",
        "flatlab": r"matplotlib|seaborn|pandas|IPython|papermill|sphinx|yaml|flatbook",
        "flatbook": r"IPython|papermill|sphinx|nbformat|_tools|flatlab",
    }[package]
    for file in (ROOT / "lib" / package).rglob("*.py"):
        found = re.findall(rf"(?m)^(?:import|from) ({strangers})\b", file.read_text())
        assert not found, f"{file} imports {found}"


def test_the_repository_stands_once():
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    elsewhere = [
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.md", "*.toml", "*.yml", "lib/**/*.py", "book/*.md", ".github/**/*.yml")
        for path in ROOT.glob(pattern)
        if url in path.read_text("utf-8")
    ]
    assert elsewhere == ["_config.yml"]
