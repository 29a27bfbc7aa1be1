"""Where sql/, migrations/, templates/ and static/ are: in a wheel inside the package, in a
checkout beside it."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource_folder(name: str) -> Path:
    """The folder `name` that travels with the package.

    Raises FileNotFoundError when the installation is incomplete."""
    for parent in (_PACKAGE, _PACKAGE.parent):
        folder = parent / name
        if folder.is_dir() and any(folder.iterdir()):
            return folder
    raise FileNotFoundError(f"{name}/ is missing from the installation at {_PACKAGE}")
