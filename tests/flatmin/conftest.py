"""Lets the tests of this folder say `from cases import build`, also in processes they spawn."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
