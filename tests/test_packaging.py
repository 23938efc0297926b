"""What the project says of itself in several places must agree."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import flatmin

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


def test_the_repository_s_address_stands_nowhere_so_that_a_fork_edits_nothing():
    patterns = ("*.md", "*.cff", "*.toml", "*.yml", "lib/**/*.py", "book/**/*.md", ".github/**/*.*")
    own = re.compile(r"github\.com/flatmin|git\+https://github\.com")
    files = [path for pattern in patterns for path in ROOT.glob(pattern)]
    assert [path.name for path in files if own.search(path.read_text("utf-8"))] == []
    assert "urls" not in PROJECT


def test_the_version_stands_once_and_has_its_entry_in_the_changelog():
    assert "version" not in PROJECT
    latest = re.search(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())[1]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert flatmin.__version__ == latest == cited


# What a bare `pip install` brings, and what it does not.


def python(code, *blocked):
    """Run code where some modules are missing."""
    missing = f"import sys; sys.modules.update(dict.fromkeys({blocked!r}))"
    return subprocess.run(
        [sys.executable, "-c", f"{missing}\n{code}"], capture_output=True, text=True, check=False
    )


def test_flatmin_loads_torch_numpy_and_scipy_alone():
    extras = ["IPython", "flatbook", "flatlab", "matplotlib", "pandas", "seaborn", "tomli"]
    extras += ["torchvision", "tqdm", "yaml"]
    code = "import pkgutil, flatmin\n"
    code += "for found in pkgutil.walk_packages(flatmin.__path__, 'flatmin.'):\n"
    code += "    __import__(found.name)"
    done = python(code, *extras)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["tqdm", "torchvision"])
def test_the_runner_says_in_one_line_which_extra_is_missing(module, tmp_path):
    options = ["demo", "seed=0", "--tier", "smoke", "--out", str(tmp_path), "--set"]
    options += ["model=resnet-18"]
    code = f"sys.argv = ['flatlab', *{options}]\n"
    code += "import runpy; runpy.run_module('flatlab', run_name='__main__')"
    done = python(code, module)
    assert done.returncode == 1
    said = f'ModuleNotFoundError: {module} is missing: pip install "flatmin[lab] @ git+<address>"\n'
    assert done.stderr == said


@pytest.mark.parametrize("module", ["matplotlib", "seaborn", "yaml"])
def test_a_chapter_s_import_says_which_extra_is_missing(module):
    done = python("import flatbook", module)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('pip install "flatmin[chapter] @ git+<address>"')
