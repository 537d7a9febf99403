// SPDX-License-Identifier: GPL-2.0
// A scalable function without hardware: the device wirespeed_sf.sf.4 on the auxiliary bus, child of the PCI device
// that the parameter `pf` names, with an interface that drops what it is to send. No card that QEMU has can make one.
#include <linux/auxiliary_bus.h>
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

static char *pf = "0000:01:00.0";
module_param(pf, charp, 0444);

static struct auxiliary_device *function;

static netdev_tx_t drop(struct sk_buff *packet, struct net_device *interface)
{
	dev_kfree_skb(packet);
	return NETDEV_TX_OK;
}

static const struct net_device_ops operations = {
	.ndo_start_xmit = drop,
	.ndo_set_mac_address = eth_mac_addr,
	.ndo_validate_addr = eth_validate_addr,
};

static int probe(struct auxiliary_device *device, const struct auxiliary_device_id *id)
{
	struct net_device *interface = alloc_etherdev(0);
	int error;

	if (!interface)
		return -ENOMEM;
	SET_NETDEV_DEV(interface, &device->dev);
	interface->netdev_ops = &operations;
	eth_hw_addr_random(interface);
	error = register_netdev(interface);
	if (error) {
		free_netdev(interface);
		return error;
	}
	auxiliary_set_drvdata(device, interface);
	return 0;
}

static void remove(struct auxiliary_device *device)
{
	struct net_device *interface = auxiliary_get_drvdata(device);

	unregister_netdev(interface);
	free_netdev(interface);
}

static const struct auxiliary_device_id devices[] = { { .name = KBUILD_MODNAME ".sf" }, {} };
MODULE_DEVICE_TABLE(auxiliary, devices);

static struct auxiliary_driver driver = {
	.name = "sf",
	.probe = probe,
	.remove = remove,
	.id_table = devices,
};

static ssize_t sfnum_show(struct device *device, struct device_attribute *attribute, char *text)
{
	return sysfs_emit(text, "88\n");
}
static DEVICE_ATTR_RO(sfnum);
static struct attribute *sf_attrs[] = { &dev_attr_sfnum.attr, NULL };
ATTRIBUTE_GROUPS(sf);

static void release(struct device *device)
{
	kfree(to_auxiliary_dev(device));
}

static int make_function(struct device *parent)
{
	int error;

	function = kzalloc(sizeof(*function), GFP_KERNEL);
	if (!function)
		return -ENOMEM;
	function->name = "sf";
	function->id = 4;
	function->dev.parent = parent;
	function->dev.release = release;
	function->dev.groups = sf_groups;
	error = auxiliary_device_init(function);
	if (error) {
		kfree(function);
		return error;
	}
	error = auxiliary_device_add(function);
	if (error)
		auxiliary_device_uninit(function);
	return error;
}

static int __init start(void)
{
	struct device *parent = bus_find_device_by_name(&pci_bus_type, NULL, pf);
	int error;

	if (!parent)
		return -ENODEV;
	error = auxiliary_driver_register(&driver);
	if (!error) {
		error = make_function(parent);
		if (error)
			auxiliary_driver_unregister(&driver);
	}
	put_device(parent);
	return error;
}

static void __exit stop(void)
{
	auxiliary_device_delete(function);
	auxiliary_device_uninit(function);
	auxiliary_driver_unregister(&driver);
}

module_init(start);
module_exit(stop);
MODULE_DESCRIPTION("A scalable function without hardware");
MODULE_LICENSE("GPL");
