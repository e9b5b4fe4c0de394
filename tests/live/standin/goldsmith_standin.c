// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests only: makes QEMU's "edu" device look like one of NVIDIA's to the drivers of this machine, so that nvidia.ko,
 * which unloads itself where it finds no device, stays. Nothing answers behind it: no GPU, no firmware, no session.
 *
 * It never leaves again, and it is in no image: the live tests bring it along in their measured add-on.
 */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pci_ids.h>

/* QEMU, docs/specs/edu.rst */
#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8
/* nvidia.ko takes any device of this class for an NVSwitch; real numbers of switches begin further up. */
#define STANDIN_DEVICE 0x1000
#define STANDIN_CLASS (PCI_CLASS_BRIDGE_OTHER << 8)

static int __init standin_init(void)
{
	struct pci_dev *device = pci_get_device(EDU_VENDOR, EDU_DEVICE, NULL);

	if (!device)
		return -ENODEV;
	device->vendor = PCI_VENDOR_ID_NVIDIA;
	device->device = STANDIN_DEVICE;
	device->class = STANDIN_CLASS;
	pci_dev_put(device);
	return 0;
}
module_init(standin_init);

MODULE_DESCRIPTION("Stand-in for an NVIDIA device, for tests");
MODULE_LICENSE("GPL");
