"""Weights by repository name: `hub:OWNER/REPOSITORY/FILE` or `hub:OWNER/REPOSITORY/FILE@REVISION`.

Files are kept in the cache of huggingface_hub and looked up there again without a network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from handhold.errors import InputError, MissingExtraError, MissingFileError

PREFIX = "hub:"
_FORM = re.compile(r"hub:([\w.-]+/[\w.-]+)/([^@]+)(?:@(\S+))?")


def local_file(where: str | Path) -> Path:
    """A path as it is; a name of the hub as the file it was fetched to.

    Raises InputError for a malformed name, MissingExtraError without huggingface_hub,
    MissingFileError where the hub has no such file or cannot be reached.
    """
    text = str(where)
    if not text.startswith(PREFIX):
        return Path(where)
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"{text}: expected hub:OWNER/REPOSITORY/FILE, with @REVISION if wanted")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{text}: needs: pip install 'handhold[hub]'") from error
    repository, name, revision = match.groups()
    try:
        mirror = os.environ.get("HF_ENDPOINT") or None
        return Path(hf_hub_download(repository, name, revision=revision, endpoint=mirror))
    except LocalEntryNotFoundError as error:
        raise MissingFileError(
            f"{text}: not in the cache, and the hub cannot be reached; fetch the file where there "
            "is a network and give its path"
        ) from error
    except (EntryNotFoundError, RepositoryNotFoundError) as error:
        raise MissingFileError(f"{text}: the hub has no such file (or it is private)") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise MissingFileError(f"{text}: cannot be fetched ({reason})") from error
