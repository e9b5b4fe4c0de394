"""A release folder appears whole, or the old one stays."""

from __future__ import annotations

from pathlib import Path

from builder.atomic import sync_directory, temporary_folder
from builder.errors import ImageError, UsageError

_OURS = "manifest.json"


def publish(folder: Path, out: Path) -> None:
    """Move a finished folder to ``out``; an older release there is replaced.

    Both lie on one file system (the build folder is made beside ``out``).

    Raises:
        UsageError: ``out`` holds something that is no release; it is left alone.
        ImageError: the folder cannot be moved.
    """
    for path in folder.iterdir():
        path.chmod(0o644)
    folder.chmod(0o755)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / _OURS).exists())):
        raise UsageError(
            f"{out} exists and is no release folder; it is left alone", hint="--out another folder"
        )
    try:
        if out.exists():
            # Two renames: a reader sees the old release, for a moment none, then the new one, never a mixture.
            with temporary_folder(f".{out.name}.old.", parent=out.parent) as old:
                kept = old / "release"
                try:
                    out.rename(kept)
                    folder.rename(out)
                except BaseException:  # a signal between the two would take the old release with it
                    if kept.exists() and not out.exists():
                        kept.rename(out)
                    raise
        else:
            folder.rename(out)
    except OSError as error:
        raise ImageError(f"cannot move the finished release to {out}: {error.strerror}") from error
    sync_directory(out.parent)
