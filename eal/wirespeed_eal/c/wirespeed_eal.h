/*
 * For a DPDK application in a pod: its interfaces, and the arguments of its EAL. The same as Python's wirespeed_eal.
 *
 *	struct ws_eal *pod = ws_eal_open(NULL);
 *	int count;
 *	char **args = ws_eal_arguments(pod, NULL, &count);
 *	if (!args)
 *		die(ws_eal_error(pod));
 *	...argv[0], then args[0] to args[count - 1], to rte_eal_init()...
 *	ws_eal_close(pod);
 *
 * Link with -lwirespeed_eal, or compile wirespeed_eal.c with the application: it needs libc alone.
 */
#ifndef WIRESPEED_EAL_H
#define WIRESPEED_EAL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where is read; NULL in each field is its default. */
struct ws_eal_sources {
	const char *podinfo;		/* the Downward API's folder: /etc/podnetinfo */
	const char *const *sockets;	/* folders with sockets, or files configData-*.json; ends with NULL */
	const char *root;		/* root of the file system, for /sys and /run: "" */
	const char *hostname;		/* gethostname(2) */
	const char *const *environ;	/* NAME=VALUE, ends with NULL: environ(7) */
};

/* An interface of the pod. Strings are never NULL: "" is what nobody said. */
struct ws_eal_interface {
	const char *name;	/* "" for a device that no network names */
	const char *network;
	const char *kind;	/* host, sr-iov, pci, vhost-user, memif, vdpa */
	int is_default;		/* of the cluster's network */
	const char *const *ips;	/* ends with NULL */
	const char *mac;
	int mtu;
	const char *pci;	/* 0000:03:02.0 */
	const char *path;	/* the socket, or the vdpa device */
	const char *role;	/* the application's: client, server, master, slave */
	const char *mode;	/* of memif: ethernet, ip, inject-punt */
	const char *driver;	/* of vdpa: vhost, virtio */
	int queues;
	int ring_size;		/* of memif, 0 is the default */
	int buffer_size;
	const char *secret;
	const char *version;	/* of the device-info */
};

struct ws_eal_options {
	int cores;		/* how many of the container's CPUs, 0 is all */
	int memory;		/* MiB of hugepages, 0 leaves it to DPDK, -1 is the container's limit */
	const char *file_prefix;	/* NULL is one made of the pod's and the container's name */
};

struct ws_eal;

/* Reads everything; sources may be NULL. NULL only without memory. */
struct ws_eal *ws_eal_open(const struct ws_eal_sources *sources);

/* Frees the pod and everything that was got from it. */
void ws_eal_close(struct ws_eal *pod);

/* The interfaces, in the order of network-status; those that it does not name come after. */
size_t ws_eal_count(const struct ws_eal *pod);
const struct ws_eal_interface *ws_eal_interface(const struct ws_eal *pod, size_t index);

/* Removes the sockets that the application shall listen on and that a killed one has left. How many, or -1. */
int ws_eal_remove_stale(struct ws_eal *pod);

/*
 * The arguments, NULL-terminated, *count without the NULL; options may be NULL (memory is -1 then). NULL when the
 * interfaces cannot be told to the EAL.
 */
char **ws_eal_arguments(struct ws_eal *pod, const struct ws_eal_options *options, int *count);

/* Why the last call failed. */
const char *ws_eal_error(const struct ws_eal *pod);

#ifdef __cplusplus
}
#endif
#endif
