"""Secrets come from files: those that systemd hands over (LoadCredential=), or files of the site.

Source: systemd.exec(5), "Credentials": CREDENTIALS_DIRECTORY names a folder that only the service can read.
"""

from __future__ import annotations

import os
from pathlib import Path

LARGEST_BYTES = 65_536
"""More than any password, key or certificate list of ours."""
OF_A_FOLDER = "credentials_"
"""What LoadCredential=credentials:FOLDER, as in our units, puts before the name of each file in the folder."""


class CredentialError(ValueError):
    """A secret that cannot be had, and why, in one sentence that does not hold it."""


def path_of(name: str) -> Path:
    """Where a secret lies: a plain name among the service's credentials if it is there, else a path."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if folder and "/" not in name:
        for handed_over in (Path(folder, name), Path(folder, OF_A_FOLDER + name)):
            if handed_over.is_file():
                return handed_over
    return Path(name)


def read(name: str, purpose: str) -> str:
    """The text of a secret without white space around it. purpose: the key of the configuration that names it.

    Raises CredentialError.
    """
    path = path_of(name)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise CredentialError(f"{purpose} {path}: expected at most {LARGEST_BYTES} bytes")
        text = data.decode("utf-8").strip()
    except OSError as error:
        raise CredentialError(f"{purpose} {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CredentialError(f"{purpose} {path}: expected text in UTF-8") from error
    if not text:
        raise CredentialError(f"{purpose} {path}: is empty")
    return text
