import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flatbook.claims import Claim, claim, holds, load_claims, required, verdict

BELOW = {"tolerance": {"below": 0.1}, "check": "error"}


@pytest.mark.parametrize(
    ("value", "tolerance", "expected"),
    [
        (0.09, {"below": 0.1}, True),
        (0.1, {"below": 0.1}, False),
        (0.2, {"above": 0.1}, True),
        (0.1, {"above": 0.1}, False),
        (1.0, {"between": [0.9, 1.1]}, True),
        (1.2, {"between": [0.9, 1.1]}, False),
    ],
)
def test_a_value_is_held_against_each_kind_of_tolerance(value, tolerance, expected):
    assert holds(value, tolerance) is expected


@pytest.mark.parametrize("tolerance", [{"below": 1}, {"above": 1}, {"between": [0, 1]}])
def test_nan_never_passes(tolerance):
    assert not holds(math.nan, tolerance)


def test_nan_never_passes_whatever_its_interval():
    assert verdict(math.nan, BELOW, (0.01, 0.02)) == "not reproduced"


@pytest.mark.parametrize("tolerance", [{}, {"near": 1}, {"below": 1, "above": 0}])
def test_an_unknown_tolerance_is_refused(tolerance):
    with pytest.raises(ValueError, match="below: x, above: x"):
        holds(0.0, tolerance)


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_below_and_above_exclude_each_other(value, limit):
    assert not (holds(value, {"below": limit}) and holds(value, {"above": limit}))


def test_a_reduced_scale_is_said():
    assert verdict(0.0, {**BELOW, "scale": "reduced"}) == "reproduced at reduced scale"
    assert verdict(1.0, {**BELOW, "scale": "reduced"}) == "not reproduced"


def test_the_line_hides_the_size_of_rounding_errors(capsys):
    for value in (1e-15, 7e-16):
        Claim("X", {"tolerance": {"below": 1e-12}, "check": "error"}).check(value)
    first, second = capsys.readouterr().out.splitlines()
    assert first == second == "X: reproduced. below 1e-14 (must be below 1e-12), error"


def test_a_tensor_counts_as_a_number_and_a_vector_does_not(capsys):
    Claim("X", BELOW).check(torch.tensor(0.25))
    assert "not reproduced. 0.25" in capsys.readouterr().out
    with pytest.raises(TypeError, match="one number"):
        Claim("X", BELOW).check(torch.zeros(2))


def test_the_figure_is_stored_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("FLATBOOK_OUT", raising=False)
    Claim("X", BELOW).check(0.05)
    monkeypatch.setenv("FLATBOOK_OUT", str(tmp_path))
    Claim("Y", BELOW).check(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["Y.claim.json"]
    assert json.loads((tmp_path / "Y.claim.json").read_text()) == {
        "value": 0.05,
        "verdict": "reproduced",
    }


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(KeyError, match=r"A\.T3"):
        claim("A.T33")


def test_a_claim_without_tolerance_asks_for_one():
    with pytest.raises(ValueError, match="choose one"):
        Claim("X", {"check": "error"}).check(0.0)


def test_every_claim_is_planned_or_decidable_and_both_only_at_the_papers_scale():
    for name, entry in load_claims().items():
        assert {"statement", "source"} <= entry.keys(), name
        decided = {"chapter", "check", "tolerance", "tier"} <= entry.keys()
        assert decided or "planned" in entry, name
        assert not (decided and "planned" in entry) or entry["tier"] == "paper", name
        if decided:
            assert required(entry["tolerance"])


@pytest.mark.parametrize(
    ("interval", "tolerance", "expected"),
    [
        ((0.01, 0.09), {"below": 0.1}, "reproduced"),
        ((0.01, 0.11), {"below": 0.1}, "inconclusive"),
        ((0.11, 0.2), {"below": 0.1}, "not reproduced"),
        ((0.11, 0.2), {"above": 0.1}, "reproduced"),
        ((0.05, 0.2), {"above": 0.1}, "inconclusive"),
        ((0.01, 0.09), {"above": 0.1}, "not reproduced"),
        ((0.95, 1.05), {"between": [0.9, 1.1]}, "reproduced"),
        ((0.85, 1.15), {"between": [0.9, 1.1]}, "inconclusive"),
        ((1.05, 1.15), {"between": [0.9, 1.1]}, "inconclusive"),
        ((1.15, 1.2), {"between": [0.9, 1.1]}, "not reproduced"),
        ((0.5, 0.6), {"between": [0.9, 1.1]}, "not reproduced"),
    ],
)
def test_an_estimate_is_decided_by_its_whole_interval(interval, tolerance, expected):
    assert verdict(sum(interval) / 2, {"tolerance": tolerance}, interval) == expected


def test_an_interval_is_printed_and_stored(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATBOOK_OUT", str(tmp_path))
    Claim("X", BELOW).check(0.05, interval=(0.01, 0.125))
    assert capsys.readouterr().out == (
        "X: inconclusive. 0.05 [0.01, 0.125] (must be below 0.1), error\n"
    )
    stored = json.loads((tmp_path / "X.claim.json").read_text())
    assert stored == {"value": 0.05, "verdict": "inconclusive", "interval": [0.01, 0.125]}


def test_an_interval_holds_its_value():
    with pytest.raises(ValueError, match="interval of claim X must hold its value"):
        Claim("X", BELOW).check(0.05, interval=(0.06, 0.125))


def test_a_failed_gate_is_printed_and_stored(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("FLATBOOK_OUT", str(tmp_path))
    Claim("X", BELOW).untestable("SAM does not beat SGD.")
    assert capsys.readouterr().out == "X: not testable here. SAM does not beat SGD.\n"
    stored = json.loads((tmp_path / "X.claim.json").read_text())
    assert stored == {"verdict": "not testable here", "why": "SAM does not beat SGD."}
