"""Where the data files of workloads are: shipped with fedpoet, or in a package beside it."""

from __future__ import annotations

import lzma
from importlib import resources
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from scheduler.errors import BadFile

UNPACKED_LIMIT_BYTES = 64 * 2**20


def shipped(name: str) -> bytes:
    """Content of the data file NAME.xz that comes with fedpoet, unpacked.

    Raises BadFile when it is missing, damaged, or more than UNPACKED_LIMIT_BYTES.
    """
    path = resources.files(__package__).joinpath(f"data/{name}.xz")
    try:
        with path.open("rb") as packed, lzma.open(packed) as file:
            content = file.read(UNPACKED_LIMIT_BYTES + 1)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadFile(f"data file {path} cannot be read: {error}; install fedpoet again") from error
    if len(content) > UNPACKED_LIMIT_BYTES:
        raise BadFile(f"data file {path} is not the one of fedpoet; install fedpoet again")
    return content


def of_package(package: str, inside: str, *, workload: str, install: str) -> Path:
    """Path of the data file `inside` an installed package, which is not imported.

    Raises BadFile, with what to `install`, when the package or its file is missing.
    """
    try:
        path = Path(str(distribution(package).locate_file(inside)))
    except PackageNotFoundError:
        raise BadFile(
            f"the {workload} workload needs the package {package}: pip install {install}"
        ) from None
    if not path.is_file():
        raise BadFile(f"{package} is installed without its data file {path}; install it again")
    return path
