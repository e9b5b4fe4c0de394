"""From a tree to a disk: initrd, EROFS, dm-verity, UKI, ESP, GPT. Every byte follows from the inputs."""
