"""dm-verity over the root file system (Linux, admin-guide/device-mapper/verity), through veritysetup."""

from __future__ import annotations

import re
from pathlib import Path

from builder.artifacts import Verity
from builder.errors import ImageError
from builder.image.identity import RootIdentity
from builder.tools import Tools

BLOCK_SIZE = 4096

_ROOT_HASH = re.compile(r"[0-9a-f]{64}")
# The program's library loads OpenSSL; the host's configuration must not choose its providers.
_ENVIRONMENT = {"OPENSSL_CONF": "/dev/null"}


def format_verity(data: Path, *, identity: RootIdentity, tools: Tools, workdir: Path) -> Verity:
    """Write the hash tree of ``data`` to ``workdir/root.verity``: format 1, SHA-256, superblock first.

    Raises:
        ImageError: ``data`` is not whole blocks, or veritysetup reported no root hash.
        ToolError: veritysetup failed.
    """
    size = data.stat().st_size
    if size == 0 or size % BLOCK_SIZE:
        raise ImageError(f"{data}: {size} bytes; dm-verity covers whole blocks of {BLOCK_SIZE} only")
    hash_tree, report = workdir / "root.verity", workdir / "root.roothash"
    for path in (hash_tree, report):
        path.unlink(missing_ok=True)
    hash_tree.touch()
    tools.run(
        "veritysetup", "format", data, hash_tree,
        "--format=1", "--hash=sha256", f"--data-block-size={BLOCK_SIZE}", f"--hash-block-size={BLOCK_SIZE}",
        f"--data-blocks={size // BLOCK_SIZE}", f"--salt={identity.verity_salt.hex()}",
        f"--uuid={identity.verity_uuid}", f"--root-hash-file={report}",
        cwd=workdir, env=_ENVIRONMENT,
    )  # fmt: skip
    root_hash = report.read_text("ascii", "replace").strip()
    if not _ROOT_HASH.fullmatch(root_hash):
        raise ImageError(f"veritysetup reported the root hash {root_hash[:80]!r}, expected 64 hex digits")
    return Verity(
        data=data,
        hash_tree=hash_tree,
        root_hash=root_hash,
        salt=identity.verity_salt.hex(),
        uuid=str(identity.verity_uuid),
    )


def verify_verity(data: Path, hash_tree: Path, *, root_hash: str, tools: Tools) -> None:
    """Check that every block of ``data`` leads through ``hash_tree`` to ``root_hash``, as the kernel would.

    Raises:
        ToolError: one does not; the message says which.
    """
    tools.run("veritysetup", "verify", data, hash_tree, root_hash, env=_ENVIRONMENT)
