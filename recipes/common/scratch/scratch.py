"""Makes encrypted, authenticated scratch space of a disk that the host owns; what was on the disk is lost.

dm-integrity keeps a tag beside each 4 KiB, dm-crypt fills it: AES-XTS with a random IV and HMAC-SHA-256 over data, IV
and sector number. The kernel makes the key itself (an "encrypted" key, Linux
Documentation/security/keys/trusted-encrypted.rst) and shows it to nobody: no program ever has it, no table names it. It
ends with the power.
"""

import fcntl
import os
import struct
import sys

sys.path.append(__file__.rpartition("/")[0])  # -I leaves out the script's own folder
from mapper import SECTOR, Mapping

DISK = "/dev/goldsmith/scratch-disk"
CONTROL = "/dev/mapper/control"
MINIMUM = 32 << 20
BLOCK = 4096
#: HMAC-SHA-256, and the IV of AES.
TAG = 32 + 16
#: AES-256-XTS, and HMAC-SHA-256.
KEY = 64 + 32
CIPHER = "capi:authenc(hmac(sha256),xts(aes))-random"
KEY_NAME, WRAPPING_NAME = "goldsmith-scratch", "goldsmith-scratch-wrapping"
_WRAPPING = 32
#: dm-integrity formats a disk whose first block is zero when it is given a table of this length, and then says how
#: many sectors are left (Documentation/admin-guide/device-mapper/dm-integrity.rst of Linux).
_FORMATTING = BLOCK // SECTOR
_BLKGETSIZE64 = 0x80081272  # _IOR(0x12, 114, size_t), include/uapi/linux/fs.h
_BYTES_PER_INODE = 65536
#: No journal: nobody recovers this file system. No checksums: each block has its tag. No uninitialised tables: a block
#: that was never written has no valid tag, so nothing may read one; for the same reason no copies of the superblock,
#: which is smaller than a block.
_FEATURES = (
    "none,extent,filetype,dir_index,extra_isize,flex_bg,64bit,huge_file,large_file,dir_nlink,sparse_super2"
)


class ScratchError(Exception):
    """There will be no scratch space; the message goes to the console."""


def main() -> None:
    """Leave a mapped device with an empty file system, and no key in any keyring."""
    number, size = erase(DISK)
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    tags = Mapping(control, "goldsmith-scratch-tags")
    tags.load(_FORMATTING, "integrity", integrity_table(number))
    sectors = provided_sectors(tags.loaded_status(), size)
    tags.load(sectors, "integrity", integrity_table(number))
    tags.resume()
    make_key()
    plain = Mapping(control, "goldsmith-scratch-plain")
    plain.load(sectors, "crypt", crypt_table(tags.number))
    run("/usr/bin/keyctl", "clear", "@s")
    plain.resume()
    make_file_system(plain.path)


def erase(path: str) -> tuple[str, int]:
    """Overwrite the first block; return the disk's number and its size in bytes."""
    disk = os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    try:
        (size,) = struct.unpack("=Q", fcntl.ioctl(disk, _BLKGETSIZE64, bytes(8)))
        if size < MINIMUM:
            raise ScratchError(f"the scratch disk has {size} bytes; at least {MINIMUM} are needed")
        os.pwrite(disk, bytes(BLOCK), 0)
        os.fsync(disk)
        number = os.fstat(disk).st_rdev
    finally:
        os.close(disk)
    return f"{os.major(number)}:{os.minor(number)}", size


def integrity_table(disk: str) -> str:
    """Return dm-integrity's parameters: from sector 0, tags from above, written without a journal."""
    options = (f"block_size:{BLOCK}", "journal_sectors:1", "fix_padding")
    return f"{disk} 0 {TAG} D {len(options)} {' '.join(options)}"


def crypt_table(tags: str) -> str:
    """Return dm-crypt's parameters, with the key by its name."""
    options = (f"integrity:{TAG}:aead", f"sector_size:{BLOCK}")
    return f"{CIPHER} :{KEY}:encrypted:{KEY_NAME} 0 {tags} 0 {len(options)} {' '.join(options)}"


def provided_sectors(status: list[str], size: int) -> int:
    """Return how many sectors dm-integrity has left for data; the disk, which the host can write to, said so."""
    sectors = int(status[1]) if len(status) > 1 and status[1].isdecimal() else 0
    sectors -= sectors % (BLOCK // SECTOR)
    if not 0 < sectors * SECTOR < size:
        raise ScratchError(
            f"dm-integrity provides {status!r} on a disk of {size} bytes: the host changed it meanwhile"
        )
    return sectors


def make_key() -> None:
    """Have the kernel draw the key, in the session keyring of this service.

    It asks for a second key that would encrypt the first one, should anybody export it. Nobody does.
    """
    run("/usr/bin/keyctl", "padd", "user", WRAPPING_NAME, "@s", given=os.urandom(_WRAPPING))
    run("/usr/bin/keyctl", "add", "encrypted", KEY_NAME, f"new default user:{WRAPPING_NAME} {KEY}", "@s")


def make_file_system(device: str) -> None:
    """Make an empty ext4, every table of which is written."""
    disk = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    os.write(disk, bytes(BLOCK))
    os.fsync(disk)
    os.close(disk)
    run(
        "/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-O", _FEATURES, "-b", str(BLOCK), "-i", str(_BYTES_PER_INODE),
        "-m", "0", "-E", "lazy_itable_init=0,nodiscard,num_backup_sb=0,root_owner=0:0", device,
    )  # fmt: skip


def run(*command: str, given: bytes = b"") -> None:
    """Run a program with these bytes on its standard input, at most a pipe's worth."""
    reader, writer = os.pipe()
    os.write(writer, given)
    os.close(writer)
    try:
        child = os.posix_spawn(command[0], command, {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)])
    finally:
        os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise ScratchError(f"{' '.join(command[:2])} ended with {status}")


if __name__ == "__main__":
    try:
        main()
    except (ScratchError, OSError) as error:
        print(f"no scratch space: {error}", file=sys.stderr)
        sys.exit(1)
