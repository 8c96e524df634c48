"""What a run says when the disk refuses: which file, why, what is safe, and how to go on."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from genobj.training.folder import newest

REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of the quota",
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "Make the disk writable",
    errno.EACCES: "Make it writable",
    errno.EPERM: "Make it writable",
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError the name of the file that was written: Python knows it when a file is opened, not afterwards."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Let an OSError below say what of the run in `folder` is safe, and what to type when the cause is gone."""
    try:
        yield
    except OSError as error:
        saved = newest(folder)
        safe = f"the checkpoint {saved} is whole" if saved else "no checkpoint was saved yet"
        remedy = REMEDIES.get(_number(error), "See to that")
        told = f"{error.strerror or error}; {safe}. {remedy} and go on with: genobj train --resume {folder}"
        if error.errno is None:
            raise OSError(told) from error
        raise OSError(error.errno, told, error.filename or str(folder)) from error


def _number(error: OSError) -> int:
    """The errno, which safetensors only writes into its message."""
    told = re.search(r"os error (\d+)", str(error))
    return error.errno or (int(told[1]) if told else 0)
