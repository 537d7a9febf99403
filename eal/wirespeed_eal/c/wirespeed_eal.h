/*
 * For a DPDK application in a pod: its interfaces, and its EAL arguments. Same as wirespeed_eal in Python.
 *
 *	struct ws_eal *pod = ws_eal_open(NULL);
 *	int count;
 *	char **args = ws_eal_arguments(pod, NULL, &count);
 *	if (!args)
 *		die(ws_eal_error(pod));
 *	...argv[0], then args[0] to args[count - 1], to rte_eal_init()...
 *	ws_eal_close(pod);
 *
 * Link with -lwirespeed_eal, or compile wirespeed_eal.c with the application. It needs only libc.
 */
#ifndef WIRESPEED_EAL_H
#define WIRESPEED_EAL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where to read. NULL in a field means its default. */
struct ws_eal_sources {
	const char *podinfo;		/* the Downward API's directory; default /etc/podnetinfo */
	const char *const *sockets;	/* directories with sockets, or files configData-*.json; ends with NULL */
	const char *root;		/* root of the file system, for /sys and /run; default "" */
	const char *hostname;		/* default: gethostname(2) */
	const char *const *environ;	/* NAME=VALUE strings, ends with NULL; default: environ(7) */
};

/* An interface of the pod. Strings are never NULL; unknown ones are "". */
struct ws_eal_interface {
	const char *name;	/* "" for a device of no network */
	const char *network;
	const char *kind;	/* host, sr-iov, pci, vhost-user, memif, vdpa */
	int is_default;		/* "default" in network-status: the cluster network's */
	const char *const *ips;	/* ends with NULL */
	const char *mac;
	int mtu;
	const char *pci;	/* 0000:03:02.0 */
	const char *path;	/* the socket, or the vdpa device */
	const char *role;	/* the application's: client, server, master, slave */
	const char *mode;	/* for memif: ethernet, ip, inject-punt */
	const char *driver;	/* for vdpa: vhost, virtio */
	int queues;
	int ring_size;		/* for memif; 0 is DPDK's default */
	int buffer_size;
	const char *secret;
	const char *version;	/* the version of device-info */
};

struct ws_eal_options {
	int cores;		/* number of the container's CPUs to use; 0 means all */
	int memory;		/* MiB of hugepages; 0: leave it to DPDK; -1: the container's limit */
	const char *file_prefix;	/* NULL: made from the pod's and the container's name */
};

struct ws_eal;

/* Reads all sources; `sources` may be NULL. Returns NULL only if out of memory. */
struct ws_eal *ws_eal_open(const struct ws_eal_sources *sources);

/* Frees the pod and everything returned for it. */
void ws_eal_close(struct ws_eal *pod);

/* The interfaces, in the order of network-status, then those that are not in it. */
size_t ws_eal_count(const struct ws_eal *pod);
const struct ws_eal_interface *ws_eal_interface(const struct ws_eal *pod, size_t index);

/*
 * Removes sockets that a killed application left and on which this one is to listen. Returns their number, or -1.
 */
int ws_eal_remove_stale(struct ws_eal *pod);

/*
 * Returns the arguments, NULL-terminated; *count excludes the NULL. Without options, memory is -1. Returns NULL if
 * an interface has no EAL argument, or the container has fewer CPUs than requested.
 */
char **ws_eal_arguments(struct ws_eal *pod, const struct ws_eal_options *options, int *count);

/* Returns why the last call failed. */
const char *ws_eal_error(const struct ws_eal *pod);

#ifdef __cplusplus
}
#endif
#endif
