"""A wire of our own: Ethernet frames to and from a guest, without the kernel of the host and without privileges."""
