"""Make the part of Fashion-MNIST that ships with the package: ``python -m flatlab.data.make``.

It needs the four files of the full set; give their folder as the argument if they are not where
Debian's package dataset-fashion-mnist puts them. Prints the hashes to be checked on load.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from flatlab.data import DEBIAN, PART, PER_CLASS, read_split


def write_part(folder: Path, target: Path, per_class: dict[str, int] = PER_CLASS) -> dict[str, str]:
    """Cut the splits out of the full files in ``folder`` and write them to ``target``.

    The same files give the same bytes (np.savez_compressed would date them), and ``target``
    is replaced whole or not at all.

    Returns:
        The SHA-256 of each split's images and labels.
    """
    archive, hashes = io.BytesIO(), {}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as npz:
        for split, count in per_class.items():
            images, labels = read_split(folder, split, count)
            hashes[split] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
            for name, array in (("images", images), ("labels", labels)):
                member = io.BytesIO()
                np.save(member, array)
                entry = zipfile.ZipInfo(f"{split}_{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                npz.writestr(entry, member.getvalue(), compresslevel=9)
    unfinished = target.with_name(target.name + ".tmp")
    unfinished.write_bytes(archive.getvalue())
    unfinished.replace(target)
    return hashes


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN
    for split, sha256 in write_part(source, PART).items():
        print(f"{split:10} {sha256}")
    print(f"{PART}: {PART.stat().st_size / 1e6:.1f} MB")
