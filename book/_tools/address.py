"""Where this copy of the book lives: asked of the workflow or of Git, so that no fork edits it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

LAUNCH_BRANCH = "launch"
_REMOTE = re.compile(
    r"(?:https://(?:[^@/]+@)?|ssh://git@|git@)(?P<host>[\w.-]+\.\w+)[/:](?P<name>[\w.-]+/[\w.-]+)"
)


@dataclass(frozen=True)
class Repository:
    """A repository on a server that shows it in a browser.

    Attributes:
        url: Such as ``https://github.com/owner/name``.
        branch: The branch that the book's links open.
    """

    url: str
    branch: str

    @property
    def launches(self) -> bool:
        """Whether Colab and Binder can open it."""
        return self.url.startswith("https://github.com/")

    @property
    def site(self) -> str | None:
        """Where GitHub Pages shows its site; None on another server.

        Examples:
            >>> Repository("https://github.com/Owner/name", "main").site
            'https://owner.github.io/name/'
        """
        if not self.launches:
            return None
        owner, name = self.url.removeprefix("https://github.com/").split("/")
        host = f"{owner.lower()}.github.io"
        return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def browsable(remote: str) -> str | None:
    """Return the address in a browser of what Git calls ``remote``; None for a path or a file.

    A name or token before the ``@`` is dropped.

    Examples:
        >>> browsable("git@github.com:owner/name.git")
        'https://github.com/owner/name'
    """
    found = _REMOTE.fullmatch(remote.strip().rstrip("/").removesuffix(".git"))
    return f"https://{found['host']}/{found['name']}" if found else None


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def repository(root: Path) -> Repository | None:
    """Return where a checkout lives, or None if nothing says so.

    A workflow knows its own repository; elsewhere the remote ``origin`` is asked.
    """
    if name := os.environ.get("GITHUB_REPOSITORY"):
        url: str | None = f"{os.environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{name}"
    else:
        url = browsable(_git(root, "config", "--get", "remote.origin.url"))
    return Repository(url, LAUNCH_BRANCH) if url else None


def source(root: Path) -> str | None:
    """Return what pip installs this very commit from, or None if the repository has no address."""
    here = repository(root)
    return f"git+{here.url}@{_git(root, 'rev-parse', 'HEAD')}" if here else None
