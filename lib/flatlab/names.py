"""The names of the networks: what may stand in them, and what they say."""

from __future__ import annotations

import re

MODELS = (
    "cnn-bn, cnn3[-<width>][-plain|-group][-flat], cnn6, vit[-<width>], resnet-18, resnet-50 or "
    "wrn-<depth>-<widen>"
)
_MODEL = re.compile(
    r"cnn-bn|cnn6|resnet-(?:18|50)|wrn-(?P<depth>[1-9]\d{1,2})-(?P<widen>[1-9]\d?)"
    r"|vit(?:-(?P<tokens>[1-9]\d{0,2}))?"
    r"|cnn3(?:-(?P<width>[1-9]\d{0,2}))?(?P<norm>-plain|-group)?(?P<flat>-flat)?"
)


def parts(model: str) -> dict[str, str | None]:
    """What the name of a network says of its sizes, None where it says nothing.

    Raises:
        ValueError: no such network.

    Example:
        >>> parts("wrn-16-8")["depth"], parts("cnn3-24-flat")["width"], parts("vit")["width"]
        ('16', '24', None)
    """
    found = _MODEL.fullmatch(model)
    if found is None:
        raise ValueError(f"model must be {MODELS}, got {model!r:.80}")
    if found["depth"] and int(found["depth"]) % 6 != 4:
        raise ValueError(f"model must be {MODELS} with depth 10, 16, 22, 28 …, got {model!r:.80}")
    if found["norm"] == "-group" and int(found["width"] or 16) % 8:
        raise ValueError(f"model must be {MODELS} with group norm of 8, 16 …, got {model!r:.80}")
    if found["tokens"] and int(found["tokens"]) % 16:
        raise ValueError(f"model must be {MODELS} with a vit of 16, 32 …, got {model!r:.80}")
    return found.groupdict()
