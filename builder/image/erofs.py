"""The root file system: a tree as an EROFS image, through mkfs.erofs of the toolbox."""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import UUID

from builder.errors import ImageError
from builder.image.tar import tar_pieces
from builder.tools import Tools
from builder.tree import Tree

#: Equal to the page size of x86-64, below which the kernel maps no block.
BLOCK_SIZE = 4096

# Measured with a Debian root of 98 MB: stored 97 MB in 0.17 s of CPU, lz4 in clusters of 64 KiB 67 MB in
# 0.31 s, zstd level 1 61 MB in 1.1 s, lz4hc 66 MB in 5 s. Less data is also less for dm-verity to hash, at
# build and at boot, and lz4 is built into the kernel.
_COMPRESSION = ("-zlz4", "-C65536")


def build_erofs(tree: Tree, *, uuid: UUID, tools: Tools, workdir: Path) -> Path:
    """Write the tree to ``workdir/root.erofs``; all times are the tools' source_date_epoch.

    Returns:
        The image, a multiple of 4096 bytes.

    Raises:
        ImageError: the tree does not fit, or the result is no EROFS of whole blocks.
        ToolError: mkfs.erofs failed.
    """
    output = workdir / "root.erofs"
    output.unlink(missing_ok=True)
    with tempfile.TemporaryFile(dir=workdir) as archive:
        archive.writelines(tar_pieces(tree, mtime=tools.source_date_epoch))
        archive.seek(0)
        # Without a source, mkfs.erofs reads the archive from its standard input.
        tools.run(
            "mkfs.erofs", "--quiet", "-d0", "--tar=f", "--sort=path",
            f"-b{BLOCK_SIZE}", *_COMPRESSION,
            "--workers=1",  # one order of clusters, whatever the number of CPUs
            "-x-1",  # no extended attributes: a tree has none
            f"-T{tools.source_date_epoch}", "--all-time", f"-U{uuid}",
            output,
            stdin=archive, cwd=workdir, env={"TMPDIR": str(workdir)},
        )  # fmt: skip
    size = output.stat().st_size
    if size == 0 or size % BLOCK_SIZE:
        raise ImageError(f"{output}: mkfs.erofs wrote {size} bytes, expected a multiple of {BLOCK_SIZE}")
    return output
