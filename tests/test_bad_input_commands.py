"""What the command lines say to a mistyped word or a stranger's file: one line, and nothing done.

Every case runs in this process. A recipe is refused before any folder of it is made.
"""

import sys

import pytest

from _tools import bootstrap, check, execute, figures, regenerate, render
from flatlab import gpu
from flatlab.__main__ import main
from flatlab.settings import MOST_RUNS

HEAD = 'data = "fashion-mnist-part"\nepochs = 1\n'
MODEL = 'model = "cnn-bn"\n'
RUN = '[[runs]]\nmethod = "SGD"\nseed = 0\n'
SAM = '[[runs]]\nmethod = "SAM"\nrho = 0.1\nseed = 0\n'
MANY = f"lr = [{', '.join(f'{i}.0' for i in range(1, 201))}]\n"

RECIPES = {
    # What a file says: what the answer must hold.
    "": "must hold at least one [[runs]]",
    "\ud800": "is not a TOML file",  # no UTF-8
    "x" * 2_000_000: "must be a regular file of at most 50,000 bytes",
    f"{'.'.join('a' * 20_000)} = 1\n": "at most 250 dots in a line, got 19999",
    f"[{'.'.join('a' * 20_000)}]\n"
    + "".join(f"{i:x} = 1\n" for i in range(1000)): "at most 250 dots in a line, got 19999",
    HEAD + MODEL + f"lr = {'x' * 40_000!r}\n" + RUN: "lr must be of type float, got 'xxx",
    HEAD + MODEL.replace("cnn-bn", "x" * 40_000) + RUN: "model must be cnn-bn, .* got 'xxx",
    HEAD + MODEL + f"{'x' * 40_000} = 1\n" + RUN: "is no setting",
    "lr = [" + "[" * 5000: "is not a TOML file",
    HEAD + MODEL + "runs = 3\n": "runs must be tables, written [[runs]], got 3",
    HEAD + MODEL + "runs = [1, 2]\n": "runs must be tables, written [[runs]], got [1, 2]",
    HEAD + MODEL + 'runs = "all"\n': "runs must be tables, written [[runs]], got 'all'",
    HEAD + MODEL + "[runs]\nseed = 0\n": "runs must be tables, written [[runs]], got {'seed': 0}",
    HEAD + MODEL + "runs = []\n": "must hold at least one [[runs]]",
    HEAD + MODEL + '[[runs]]\nmethod = "SGD"\nseed = []\n': "seed must list at least one value",
    HEAD + MODEL + '[[runs]]\nmethod = "SGD"\nseed = [[0, 1]]\n': "seed must be of type int, got",
    HEAD + MODEL + "seed = [0, 1]\n[[runs]]\nmethod = 'SGD'\n": "seed must be of type int, got [0",
    HEAD + MODEL + RUN + RUN: "two runs of the name SGD-seed0",
    HEAD + MODEL + RUN + MANY + MANY.replace("lr", "weight_decay"): f"at most {MOST_RUNS} runs",
    HEAD + MODEL + f"lr = 1{'0' * 400}\n" + RUN: "lr must be below 2**63, got 1000",
    HEAD + MODEL + f"look = 1{'0' * 40}\n" + RUN: "look must be below 2**63",
    HEAD + MODEL + f"look = 1{'0' * 4000}\n" + RUN: "look must be below 2**63",
    HEAD + MODEL + "lr = 1e400\n" + RUN: "lr must be finite, got inf",
    HEAD + MODEL + "lr = nan\n" + RUN: "lr must be finite, got nan",
    HEAD + MODEL + 'lr = "0.1"\n' + RUN: "lr must be of type float, got '0.1'",
    HEAD + MODEL + "lr = true\n" + RUN: "lr must be of type float, got True",
    HEAD + MODEL + "lr = 1979-05-27\n" + RUN: "lr must be of type float, got datetime.date",
    HEAD + MODEL + "lr = {a = 1}\n" + RUN: "lr must be of type float, got {'a': 1}",
    HEAD + MODEL + "augment = 1\n" + RUN: "augment must be of type bool, got 1",
    HEAD + MODEL + "batch_size = 0\n" + RUN: "batch_size must be positive, got 0",
    HEAD + MODEL + "batch_size = 1000000\n" + RUN: "batch_size must be at most 6000, the training",
    HEAD + MODEL + "batch_size = 5001\nvalidate = true\n" + RUN: "batch_size must be at most 5000",
    HEAD + MODEL + "unlabelled_batch_size = 6001\n" + RUN: "unlabelled_batch_size must be at most",
    HEAD + MODEL + "labels = 15\n" + RUN: "labels must be a multiple of the 10 classes, got 15",
    HEAD + MODEL + "labels = 80000\n" + RUN: "labels must be at most 6000, the training images",
    HEAD + MODEL + "rho = 0.1\n" + RUN: "rho must be left out for SGD, got 0.1",
    HEAD + MODEL + SAM.replace("0.1", "0"): "rho must be positive for SAM",
    HEAD + MODEL + SAM.replace("0.1", "-1"): "rho must not be negative, got -1",
    HEAD + MODEL + "climb_batch = 4\n" + RUN: "climb_batch is for supervised runs of SAM and IAM-S",
    HEAD + MODEL + "halve_rho = -1\n" + SAM: "halve_rho must not be negative, got -1",
    HEAD + MODEL + 'loop = "fixmatch"\n' + RUN: "unlabelled_batch_size must be positive",
    HEAD + MODEL + 'loop = "own"\n' + RUN: "loop must be one of",
    HEAD + MODEL + "colour = 3\n" + RUN: "'colour' is no setting",
    HEAD + MODEL + '"__class__" = 3\n' + RUN: "'__class__' is no setting",
    HEAD.replace("-part", "").replace("fashion-mnist", "../etc") + MODEL + RUN: "data must be one",
    HEAD + RUN: "settings must name ['model']",
    **{
        HEAD + f"model = {name!r}\n" + RUN: f"model must be cnn-bn, .* got {name!r}"
        for name in (
            "../../evil",
            "/tmp/evil/x",
            "cnn-bn/../../x",
            "cnn-bn ",
            "CNN-BN",
            "",
            "wrn-16-0",
            "wrn-16",
            "wrn-17-1",
            "wrn-4-1",
            "wrn-16-99999999",
            "cnn3-0",
            "cnn3-9999999",
            "cnn3-12-group",
            "resnet-34",
            "<script>alert(1)</script>",
        )
    },
    HEAD
    + '[[runs]]\nmodel = ["../../evil", "/etc/x"]\nmethod = "SGD"\nseed = 0\n': "model must be",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder two levels down, to see what is made beside it."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return tmp_path


def files(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "plan"])
@pytest.mark.parametrize("text", RECIPES, ids=lambda text: RECIPES[text][:60])
def test_a_bad_recipe_is_refused_in_one_line_before_anything_is_made(text, dry, place, capsys):
    recipe = place / "a" / "b" / "mine.toml"
    recipe.write_bytes(text.encode("utf-8", "surrogatepass"))
    before = files(place)
    assert main([str(recipe), "--device", "cpu", "--out", "out", *dry]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 2000
    first, _, last = RECIPES[text].partition(" .* ")
    assert first in said
    assert last in said
    assert files(place) == before


@pytest.mark.parametrize("name", ["...toml", ".toml", "....toml", "-x.toml", "a\nb.toml"])
def test_a_recipe_whose_file_s_name_is_no_plain_one_writes_nowhere(name, place, capsys):
    """Its stem names a folder under --out, and that of "...toml" is ".."."""
    recipe = place / "a" / "b" / name
    recipe.write_text(HEAD + MODEL + RUN)
    before = files(place)
    assert main([f"./{name}", "--tier", "smoke", "--out", "out", "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "a recipe's file must be named like my-runs.toml" in said
    assert said.count("\n") == 1
    assert files(place) == before


WORDS = {
    ("table9",): "no recipe table9; there are",
    ("nowhere.toml",): "no recipe nowhere.toml",
    ("../../etc/passwd",): "no recipe ../../etc/passwd",
    (".toml/",): "no recipe",
    ("demo", "SGD-seed7"): "has no such run: ['SGD-seed7']",
    ("demo", "seed=7"): "has no such run: ['seed=7']",
    ("demo", "colour=red"): "has no such run: ['colour=red']",
    ("demo", "seed="): "expected name=value in one line, got 'seed='",
    ("demo", "--set", "lr"): "expected name=value in one line, got 'lr'",
    ("demo", "--set", "=3"): "expected name=value in one line, got '=3'",
    ("demo", "--set", "lr=fast"): "lr must be of type float, got 'fast'",
    ("demo", "--set", "lr=nan"): "lr must be finite, got nan",
    ("demo", "--set", "lr=[0.1, 0.2]"): "lr must be of type float, got [0.1, 0.2]",
    **{
        ("demo", "method=SGD", "seed=0", "--tier", "smoke", "--set", f"{name}=1e300"): (
            f"{name} must be at most 1e+30, got 1e+300"
        )
        for name in ("lr", "weight_decay")
    },
    (
        "demo",
        "--set",
        "lr=0.1\nepochs=3",
    ): "expected name=value in one line, got 'lr=0.1\\nepochs=3'",
    ("demo", "--set", "lr=0.1\r\nepochs=3"): "expected name=value in one line, got 'lr=0.1\\r",
    ("demo", "seed=0\nmethod='SGD'"): "expected name=value in one line, got",
    ("demo", "--set", "lr=" + "[" * 5000): "lr must be of type float, got '[[[",
    ("demo", "--set", "model=../../x"): "model must be",
    ("demo", "--set", "tier=huge"): "tier must be one of",
    ("demo", "--device", "gpu"): "device must be cpu or cuda, got 'gpu'",
    ("demo", "--device", ""): "device must be cpu or cuda, got ''",
    ("demo", "--device", "meta"): "device must be cpu or cuda, got 'meta'",
    ("demo", "--device", "cpu:3"): "device must be cpu or cuda, got 'cpu:3'",
    ("demo", "--workers", "-1"): "workers must not be negative, got -1",
    ("table1-cifar10", "SGD-seed0", "--data", "/nowhere"): "no CIFAR-10",
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words)[:70])
def test_a_bad_word_is_answered_in_one_line(words, place, capsys):
    arguments = [*words, "--out", "out"]
    assert main(arguments if "--device" in words else [*arguments, "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert WORDS[words] in said
    assert said.count("\n") == 1
    assert not [name for name in files(place) if name.endswith((".json", ".pt", ".lock"))]


def test_an_out_that_is_a_file_is_left_alone(place, capsys):
    (place / "a" / "b" / "out").write_text("mine")
    assert main(["demo", "SGD-seed0", "--tier", "smoke", "--out", "out", "--device", "cpu"]) == 1
    assert "out" in capsys.readouterr().err
    assert (place / "a" / "b" / "out").read_text() == "mine"


TOOLS = {
    (execute, "iam/99-none"): "no chapter named iam/99-none; there are: beyond/01",
    (execute, "../../etc/passwd"): "no chapter named ../../etc/passwd",
    (execute, "--tier", "huge"): "invalid choice: 'huge'",
    (execute, "--jobs", "0"): "--jobs: must be at least 1, got 0",
    (execute, "--jobs", "-2"): "--jobs: must be at least 1, got -2",
    (execute, "--jobs", "two"): "--jobs: invalid",
    (execute, "--quick"): "unrecognized arguments: --quick",
    (regenerate, "iam/99-none"): "no chapter named iam/99-none",
    (regenerate, "--jobs", "0"): "--jobs: must be at least 1, got 0",
    (regenerate, "--since"): "--since: expected one argument",
    (check, "--all"): "unrecognized arguments: --all",
    (render, "--all"): "unrecognized arguments: --all",
    (figures, "iam/01"): "unrecognized arguments: iam/01",
    (bootstrap, "--lunch"): "unrecognized arguments: --lunch",
    (gpu, "--budget", "long"): "--budget: invalid",
    (gpu, "--budget", "-1"): "--budget: must be positive and finite, got -1",
    (gpu, "--budget", "nan"): "--budget: must be positive and finite, got nan",
    (gpu, "--faster"): "unrecognized arguments: --faster",
}


@pytest.mark.parametrize("case", TOOLS, ids=lambda case: f"{case[0].__name__} {case[1:]}")
def test_the_book_s_tools_refuse_what_they_do_not_know(case, monkeypatch, capsys):
    tool, *words = case

    def worked(*_, **__):
        raise AssertionError("it began to work")

    for module, name in [
        (execute, "runs"),
        (regenerate, "runs"),
        (check, "problems"),
        (render, "render"),
        (figures, "figures"),
        (bootstrap, "bootstrap"),
        (gpu, "work"),
    ]:
        monkeypatch.setattr(module, name, worked)
    monkeypatch.setattr(sys, "argv", ["tool", *words])
    with pytest.raises(SystemExit) as stopped:
        tool.main()
    assert stopped.value.code not in (0, None)
    assert TOOLS[case] in capsys.readouterr().err + str(stopped.value.code)
