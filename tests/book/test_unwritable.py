"""Every command that writes says in one line that it cannot; of a real disk see soak/kills.py."""

import errno
import importlib
import os
import sys

import pytest

from _tools.chapters import in_one_line

COMMANDS = ["bootstrap", "execute", "figures", "pdf", "regenerate", "render"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_read_only_disk_says_so_in_one_line(command, monkeypatch):
    def refused(folder, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr("pathlib.Path.mkdir", refused)  # the first that each of them does
    monkeypatch.setattr("_tools.bootstrap.first_cell", lambda: "another")
    monkeypatch.setattr("_tools.pdf.missing", lambda: "")
    monkeypatch.setattr(sys, "argv", [command])
    with pytest.raises(SystemExit, match=r"^cannot write /.+: Read-only file system$"):
        importlib.import_module(f"_tools.{command}").main()


def test_an_error_of_another_kind_keeps_its_traceback():
    with pytest.raises(FileNotFoundError), in_one_line():
        raise FileNotFoundError(errno.ENOENT, "gone", "x")
