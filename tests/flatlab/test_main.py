"""The command line: what it prints, what it survives, and grids by Snakemake."""

import fcntl
import importlib.util
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import torch

from flatlab.__main__ import main
from flatlab.settings import RECIPES

pytest.importorskip("tqdm")
COMMAND = [sys.executable, "-m", "flatlab"]
GRID = """
tier = "smoke"
data = "cifar-10"
model = "cnn-bn"
epochs = 30
steps_per_epoch = 3
batch_size = 4

[[runs]]
method = "SGD"
seed = [0, 1]

[[runs]]
method = "IAM-D"
rho = 0.1
seed = [0, 1]
"""


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def result(path: Path):
    record = json.loads(path.read_text())
    return record["settings"], record["final"], record["curve"]


def test_lines_where_there_is_no_terminal(grid, tmp_path, capsys):
    arguments = [str(grid), "seed=0", "method=IAM-D", "--tier", "smoke", "--out", str(tmp_path)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith("IAM-D-seed0: step 2 of 2, loss ")
    assert all(word in lines[-1] for word in (", error 0.", ", S 0.", ", images/s "))
    assert (tmp_path / "grid" / "IAM-D-seed0.json").exists()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"IAM-D-seed0: {tmp_path}/grid/IAM-D-seed0.json is there\n"


def test_one_bar_in_a_terminal(grid, tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    command = [*COMMAND, str(grid), "SGD-seed0", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 1000)
            except OSError:  # the other end is closed
                break
    assert process.returncode == 0
    bars = [line for line in shown.decode().split("\r") if line.strip()]
    assert all(line.startswith("SGD-seed0:") for line in bars)
    assert "90/90" in bars[-1]
    assert all(word in bars[-1] for word in ("loss=", "error=", "S=", "images/s="))
    assert shown.decode().count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "no recipe table9"),
        (["demo", "SGD-seed7"], r"demo has no such run: ['SGD-seed7']; it has ['SGD-seed0'"),
        (["demo", "seed=7"], "demo has no such run: ['seed=7']"),
        (["demo", "--set", "lr=fast"], "lr must be of type float, got 'fast'"),
        (["demo", "--set", "recipe=x"], "'recipe' is no setting"),
        (["demo", "--device", "gpu"], "device must be cpu or cuda, got 'gpu'"),
        (["demo", "--set", "lr=nan"], "lr must be finite, got nan"),
        (["table1-cifar10", "SGD-seed0", "--data", "/nowhere"], "no CIFAR-10"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, tmp_path, capsys):
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_one_that_is_stopped_says_how_to_go_on(grid, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flatlab.__main__.conduct", stopped)
    assert main([str(grid), "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "stopped: the same command goes on from the last checkpoint\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed_in_one_line(capsys):
    assert main(["demo", "--device", "cuda"]) == 1
    assert "device 'cuda' needs a GPU, and PyTorch sees none" in capsys.readouterr().err


def test_one_of_several_values_is_enough(grid, capsys):
    assert main([str(grid), "seed=0", "seed=1", "method=SGD", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == ["SGD-seed0", "SGD-seed1"]


def test_a_dry_run_trains_nothing(grid, tmp_path, capsys):
    assert main([str(grid), "--dry-run", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[3].endswith("        90       4         4 + 3")
    assert lines[-1] == "4 runs; they read cifar-10 from data"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", ["cifar10", "cifar100", "svhn"])
def test_a_table_trains_on_files_in_the_published_format(data, write_cifar, write_svhn, tmp_path):
    """All its data, its augmentation, its methods; the network and the epochs are small."""
    write_svhn() if data == "svhn" else write_cifar(int(data.removeprefix("cifar")))
    small = ["model=cnn-bn", "epochs=2", "batch_size=20"]
    places = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main([f"table1-{data}", "seed=0", *places, "--set", *small]) == 0
    records = sorted((tmp_path / "out" / f"table1-{data}").iterdir())
    assert [json.loads(path.read_text())["settings"]["method"] for path in records] == [
        *("ASAM", "IAM-D", "IAM-S", "SAM", "SGD", "random-D")
    ]
    for path in records:
        settings, final, curve = result(path)
        assert settings["data"].replace("-", "") == data
        assert curve["step"] == [5, 10]  # two epochs of 100 images
        assert final["S"] > 0
        assert 0 < final["error"] <= 1


def test_killed_at_any_moment_it_ends_like_a_run_that_was_not(grid, tmp_path):
    """Bitwise, after two kills that no handler can catch and one that one could."""
    command = [*COMMAND, str(grid), "IAM-D-seed1", "--out"]
    checkpoint = tmp_path / "b" / "grid" / "IAM-D-seed1.pt"
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        with subprocess.Popen(
            [*command, str(tmp_path / "b")], stdout=subprocess.DEVNULL
        ) as process:
            while process.poll() is None:
                if checkpoint.exists() and checkpoint.stat().st_mtime_ns > before:
                    time.sleep(0.05)  # into the middle of what comes then
                    process.send_signal(number)
                    break
                time.sleep(0.01)
        assert process.returncode == -number
    for place in "ab":
        subprocess.run([*command, str(tmp_path / place)], check=True, stdout=subprocess.DEVNULL)
    one, other = (tmp_path / place / "grid" / "IAM-D-seed1.json" for place in "ab")
    assert result(one) == result(other)
    assert [path.name for path in other.parent.iterdir()] == [other.name]


SHARED = """
tier = "smoke"
data = "cifar-10"
model = "cnn6"
epochs = 3
steps_per_epoch = 4
batch_size = 4
lr = 0.05
seed = 0

[[runs]]
method = "SGD"

[[runs]]
method = ["SAM", "IAM-S", "IAM-D", "random-D"]
rho = 0.1

[[runs]]
loop = ["fixmatch"]
method = ["SAM", "IAM-D"]
rho = 0.2
threshold = 0.1
unlabelled_batch_size = 8
"""


def test_two_processes_follow_the_curves_of_one(tmp_path):
    """Augmented, every method with its climb in common, in float32."""
    recipe = tmp_path / "shared.toml"
    recipe.write_text(SHARED)
    rest = ["-m", "flatlab", str(recipe), "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", *rest, str(tmp_path / "two")]
    done = subprocess.run(torchrun, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert main([str(recipe), "--out", str(tmp_path / "one")]) == 0
    records = sorted((tmp_path / "one" / "shared").iterdir())
    assert len(records) == 7
    for path in records:
        one, two = (result(tmp_path / n / "shared" / path.name) for n in ("one", "two"))
        assert one[0] == two[0]
        for curve in ("loss", "error", "S"):
            assert two[2][curve] == pytest.approx(one[2][curve], rel=1e-4), (path.stem, curve)


def test_two_processes_go_on_where_one_stopped(grid, tmp_path):
    name = "IAM-D-cnn6-seed0"
    command = ["-m", "flatlab", str(grid), name, "--set", "model=cnn6", "--out"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--standalone", *command]
    record, checkpoint = (tmp_path / "two" / "grid" / f"{name}.{end}" for end in ("json", "pt"))
    with subprocess.Popen(
        [sys.executable, *command, str(tmp_path / "two")], stdout=subprocess.DEVNULL
    ) as one:
        while not checkpoint.exists():
            time.sleep(0.01)
        one.kill()
    assert not record.exists()
    # Of what only the first one sees, the other can know nothing.
    (tmp_path / "apart").mkdir()
    folders = [str(tmp_path / part) for part in ("two", "apart")]
    apart = "import os, sys; from flatlab.__main__ import main; "
    apart += f"folder = {folders}[int(os.environ['RANK'])]; "
    apart += f"sys.exit(main([*{command[2:]}, folder]))"
    script = tmp_path / "apart.py"
    script.write_text(apart)
    done = subprocess.run(
        [*torchrun[: torchrun.index("-m", 3)], str(script)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "all processes must see the same folder" in done.stderr
    assert not record.exists()
    for line in (
        [*torchrun, str(tmp_path / "two")],
        [sys.executable, *command, str(tmp_path / "one")],
    ):
        subprocess.run(line, check=True, capture_output=True)
    two, one = (result(tmp_path / n / "grid" / f"{name}.json") for n in ("two", "one"))
    assert one[0] == two[0]
    for curve in ("loss", "error", "S"):
        assert two[2][curve] == pytest.approx(one[2][curve], rel=1e-4), curve


@pytest.mark.skipif(importlib.util.find_spec("snakemake") is None, reason="needs Snakemake")
def test_snakemake_runs_a_grid_and_only_what_is_missing(grid, tmp_path):
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(RECIPES / "Snakefile")]
    command += ["--cores", "2", "--directory", str(tmp_path), "--config", f"recipe={grid}"]

    def run(*config: str, good: bool = True) -> str:
        done = subprocess.run([*command, *config], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == good, done.stderr
        return done.stderr

    run("tier=smoke")
    records = sorted(tmp_path.glob("results/grid/*.json"))
    assert [path.stem for path in records] == [
        *("IAM-D-seed0", "IAM-D-seed1", "SGD-seed0", "SGD-seed1")
    ]
    expected, kept = result(records[1]), records[0].stat().st_mtime_ns
    records[1].unlink()
    # Another command is no reason to make again what is there.
    assert "IAM-D-seed0" not in run("tier=smoke", "options=--workers 1")
    assert result(records[1]) == expected
    assert records[0].stat().st_mtime_ns == kept
    # Other settings are: what is there is not taken for what is asked.
    assert "epochs was 2, is 30" in run(good=False)
    run("tier=smoke", "set=lr=0.2 batch_size=4")
    assert len([*tmp_path.glob("results/grid/*-lr0.2-batch_size4-seed?.json")]) == 4
    assert records[0].stat().st_mtime_ns == kept
