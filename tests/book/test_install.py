"""What a stranger sees while the book's packages are installed."""

import sys
from urllib.error import URLError

import pytest

from _tools import install

PIP = """\
#!{python}
import sys
print("WARNING: a page of", "warnings")
print("Collecting torch")
print("  Downloading torch-2.9.0-cp311-cp311-manylinux_x86_64.whl (880.1 MB)")
print("Installing collected packages: numpy, torch")
print(" ".join(sys.argv[1:]))
sys.exit({status})
"""


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Let another program be pip's Python, with this exit status."""

    def stands_in(status):
        path = tmp_path / "python"
        path.write_text(PIP.format(python=sys.executable, status=status))
        path.chmod(0o755)
        monkeypatch.setattr(install.sys, "executable", str(path))

    monkeypatch.setattr(install, "without_cuda", lambda: ["--extra-index-url", "x"])
    return stands_in


def test_it_says_what_comes_and_no_page_of_warnings(pip, capfd):
    pip(0)
    assert install.install(["-e", "."]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("Installing PyTorch and what the book needs: about 2 GB on disk")
    assert said[1:] == ["  torch-2.9.0 (880.1 MB)", "  unpacking 2 packages"]


def test_if_it_fails_it_shows_the_end_of_what_pip_said(pip, capfd):
    pip(3)
    assert install.install(["-e", "."]) == 3
    said = capfd.readouterr().out
    assert "Collecting torch" in said
    assert said.splitlines()[-1].endswith("--progress-bar off --extra-index-url x -e .")


def test_silence_is_broken(pip, monkeypatch, capfd):
    monkeypatch.setattr(install, "QUIET_SECONDS", 0.001)
    pip(0)
    install.install([])
    assert "  …\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("platform", "gpu", "reached", "chosen"),
    [
        ("linux", None, True, ["--extra-index-url", install.CPU_WHEELS]),
        ("linux", "/usr/bin/nvidia-smi", True, []),
        ("linux", None, False, []),
        ("darwin", None, True, []),
    ],
)
def test_pytorch_without_cuda_where_it_is_offered(platform, gpu, reached, chosen, monkeypatch):
    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def urlopen(address, timeout):
        assert (address, timeout) == (f"{install.CPU_WHEELS}/torch/", 5)
        if not reached:
            raise URLError("no route")
        return Answer()

    monkeypatch.setattr(install.sys, "platform", platform)
    monkeypatch.setattr(install.shutil, "which", lambda _: gpu)
    monkeypatch.setattr(install, "urlopen", urlopen)
    assert install.without_cuda() == chosen
