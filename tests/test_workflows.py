"""The workflows: pinned actions, few permissions, and targets that exist."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAY_WRITE = {
    ("test", "pages"): {"pages", "id-token"},
    ("test", "launch"): {"contents"},
    ("weekly", "tell"): {"contents", "issues", "pull-requests"},
    ("weekly", "integrations"): {"issues"},
    ("release", "publish"): {"contents"},
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_trusts_commits_and_writes_only_where_it_must(path):
    text = path.read_text("utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert [line for line in used if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        granted = {key for key, value in job.get("permissions", {}).items() if value == "write"}
        assert granted == MAY_WRITE.get((path.stem, name), set())
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"\bmake ([a-z]+)", text)) - {"setup"} <= targets


def test_one_action_has_one_commit_everywhere():
    used = re.findall(r"uses: (\S+)@(\S+)", "".join(path.read_text() for path in WORKFLOWS))
    assert len({action for action, _ in used}) == len(set(used))


def test_the_site_is_published_by_the_run_that_tested_it():
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert jobs["pages"]["needs"] == jobs["launch"]["needs"] == "test"
    steps = [step.get("run") or step["uses"].partition("@")[0] for step in jobs["test"]["steps"]]
    assert steps.index(".ci/run") < steps.index("actions/upload-pages-artifact")


@pytest.mark.parametrize("name", ["test", "weekly"])
def test_the_oldest_versions_are_those_that_the_library_says_it_takes(name):
    pinned = re.findall(
        r"(torch|torchvision|numpy|scipy)==(\d+\.\d+)\.\d+",
        (ROOT / f".github/workflows/{name}.yml").read_text(),
    )
    declared = re.findall(
        r'"(torch|torchvision|numpy|scipy)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()
    )
    assert sorted(pinned) == sorted(set(declared))


def test_zenodo_and_citation_say_the_same():
    zenodo = json.loads((ROOT / ".zenodo.json").read_text())
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (zenodo["title"], zenodo["license"]) == (cited["title"], cited["license"])
