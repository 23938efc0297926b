"""The table of wrong wirings follows the code: each can be made, and names a test that there is."""

import pytest
from miswire import ROOT, wirings


@pytest.mark.parametrize(("path", "what", "text", "other", "test"), wirings())
def test_each_wrong_wiring_can_be_made(path, what, text, other, test):
    assert (ROOT / "lib" / path).read_text("utf-8").count(text) == 1
    assert text != other
    file, _, name = test.partition("::")
    tests = (ROOT / "tests" / "flatlab" / file).read_text("utf-8")
    assert f"def {name.partition('[')[0]}" in tests
