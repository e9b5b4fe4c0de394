"""PEI volumes that Debian's builds "secboot" measured, as observed: (MiB, vCPUs, boot path) -> bank -> digest.

These builds move every processor's SMM base before Tcg2Pei hashes the volume, and the library that does so (edk2 >=
202405, UefiCpuPkg/Library/SmmRelocationLib in OvmfPkg/PlatformPei) keeps what it works with in that volume: the number
of processors, CR0, CR3 and CR4, the addresses of its stack and of the interrupt table, and the instruction that the
last SMI interrupted. Of the file's bytes 40 differ, all of them there but for PeiCore's timer port. So the digest
depends on

- memory and vCPUs: PEI allocates from the end of low memory downwards, some of it for each processor;
- the number of QEMU's fw_cfg files, whose list newer builds keep in a HOB (edk2 >= 202505, OvmfPkg/Library/
  QemuFwCfgLib), 64 bytes a file: ``-kernel`` adds three;
- where an SMI is taken. That is right behind the write that sends it, as on hardware; QEMU 7.2's emulation takes it
  some instructions later and measures another volume.

Boot disk, Secure Boot keys and the virtio devices make no difference. Logs: tests/vectors/launches/alone-secboot-*.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from measurements.prediction import BootPath

Observed = Mapping[tuple[int, int, BootPath], Mapping[str, str]]

#: Debian ovmf 2025.02-8+deb13u1.
OVMF_2025_02: Final[Observed] = {
    (512, 2, BootPath.DISK): {
        "sha1": "3f2e3683f3f746a327794e8ad97a11a9830a66f1",
        "sha256": "66a685b3158d9a06ad254e731c57ec648cf880918a09f435fac45b79ae234b1f",
        "sha384": "142bd8c11657beeea6591ea9a059cfcf9f11b4b78ede724c464fdd8b33ae8be363ee4237f54327f0bd6aa6605daf0683",
        "sha512": "88c8949e3e92aa45ee7ccaa35265cde6afb5350865ab2f146d5b9bd31df6cf41"
        "789cb148195b311200ec1c90a525d66da7b8cb1fde81ccc753602a68ff8b5cf9",
    },
    (2048, 2, BootPath.DISK): {
        "sha1": "d842a5be294ba50de2f8ceb80f5cd07d3d5915bd",
        "sha256": "7590a0717ef7d7e5e6abcff51505ef3a28c7e249fe9ac12b5fe5fce8ad051837",
        "sha384": "1db940568081a93bdc8df237cabc4767fec6776a17302f4f20db2d86a9aa9aea3707377fe87176abb072859b6f156012",
        "sha512": "902c002f4cc4844517693cbf72b55b3acb1fc5a495490e9541effdd085ff9d69"
        "7ff48a9c8c70b42163b5942d1307a2b189fd5c72ec45177381b770f9f5f4a236",
    },
    (2048, 2, BootPath.DIRECT): {
        "sha1": "d842a5be294ba50de2f8ceb80f5cd07d3d5915bd",
        "sha256": "7590a0717ef7d7e5e6abcff51505ef3a28c7e249fe9ac12b5fe5fce8ad051837",
        "sha384": "1db940568081a93bdc8df237cabc4767fec6776a17302f4f20db2d86a9aa9aea3707377fe87176abb072859b6f156012",
        "sha512": "902c002f4cc4844517693cbf72b55b3acb1fc5a495490e9541effdd085ff9d69"
        "7ff48a9c8c70b42163b5942d1307a2b189fd5c72ec45177381b770f9f5f4a236",
    },
}
#: Debian ovmf-generic 2026.08+ds-2.
OVMF_2026_08: Final[Observed] = {
    (512, 2, BootPath.DISK): {
        "sha1": "478320a809171ff2b357c4f0b04916ce84205ccc",
        "sha256": "915adfdcfa1c7bb6677cd112283ac8c76dac26bc198d09f79c42d8ffa0c14fdb",
        "sha384": "445f8320ae20a014ab37c0ebd4d1093f7e705cb074b7272b27a2f34a1f97ebc0e0e7176a3946ed15fbe17af98372bc20",
        "sha512": "54ceb7dec6d3dd2f2ddb655b48b6c49fe6b9816522fdd88ea666e0e61853994c"
        "51c99cd829e1603c7d53fd4dd3712c06966d4d839013fb99a48bb83676d175d0",
    },
    (2048, 2, BootPath.DISK): {
        "sha1": "3157b38c2d564f44e2203eba881feb7e1c20491f",
        "sha256": "9ad5ae0c39d062d189d09a5f6c45c76dd940f4fc92006925cb2829b0d2518d20",
        "sha384": "6c827a22fdac082808af41ad6d0ba3754383b98007e3b3a8f78045dd7c14caeaa497ff8991876be6f0b28fa038b5537c",
        "sha512": "2cac1513c3769ac7e5efab18a4aa043e35357efb1dcd4782e3c0621581d14b94"
        "ecf6fa771e36e74683c5ab309d01c4f034d6d1078b2b0a2f6c1a65af6ab55fa7",
    },
    (2048, 2, BootPath.DIRECT): {
        "sha1": "f6390c4f9209cd22872a1e4ba9448da2cf942e3a",
        "sha256": "faa4abae06fcba04359043bad5aed421d119c914b3d04867024e988a2f92e5be",
        "sha384": "0cefbd2e1330e3980405863a84f54443f5a3752daecff50b2a1f027675b2ac96d22ebcf0a01c181b247969d66ec388d5",
        "sha512": "000a46b27af331176cdc62be3edee5cf634d5ca63aa4892fa19d77ac8f3f9921"
        "7f75ec10938fc76ff0399612a703397fa335d55d3f55e1885f1e31b8a5c64f81",
    },
}
