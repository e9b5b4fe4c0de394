// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tests only: makes two of QEMU's "edu" devices look like NVIDIA's to the programs of this machine.
 *
 * The first becomes an NVSwitch, so that nvidia.ko, which unloads itself where it finds no device, stays. The second
 * becomes a GPU, for those who look for one on the bus; no driver may have it. Nothing answers behind either: no GPU,
 * no firmware, no session.
 *
 * It never leaves again, and it is in no image: the live tests bring it along in their measured add-on.
 */
#include <linux/device.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/pci_ids.h>

/* QEMU, docs/specs/edu.rst */
#define EDU_VENDOR 0x1234
#define EDU_DEVICE 0x11e8
/* Not a number of any switch: nvidia.ko goes by the class, and would warn about a real number with nothing behind it. */
#define SWITCH_DEVICE 0x1000
#define SWITCH_CLASS (PCI_CLASS_BRIDGE_OTHER << 8)
/* H100 PCIe, as pci.ids has it. */
#define GPU_DEVICE 0x2331
#define GPU_CLASS (PCI_CLASS_DISPLAY_3D << 8)

static int __init dress(unsigned short device, unsigned int class, const char *driver)
{
	struct pci_dev *found = pci_get_device(EDU_VENDOR, EDU_DEVICE, NULL);
	int error;

	if (!found)
		return -ENODEV;
	error = driver ? device_set_driver_override(&found->dev, driver) : 0;
	if (!error) {
		found->vendor = PCI_VENDOR_ID_NVIDIA;
		found->device = device;
		found->class = class;
	}
	pci_dev_put(found);
	return error;
}

static int __init standin_init(void)
{
	int error = dress(SWITCH_DEVICE, SWITCH_CLASS, NULL);

	return error ? error : dress(GPU_DEVICE, GPU_CLASS, "none");
}
module_init(standin_init);

MODULE_DESCRIPTION("Stand-in for NVIDIA devices, for tests");
MODULE_LICENSE("GPL");
