/*
 * Says what the container may do that it runs in: one "name: value" a line. With a number, whether it can use so many
 * hugepages of 2 MiB.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static const char *const status[] = {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:",
				     "NoNewPrivs:", "Seccomp:"};
static const char *const written[] = {"/", "/etc", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward",
				      "/sys/class", "/sys/kernel/mm/hugepages", "/dev"};
static const char *const read_[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/dev/kmsg"};

static void tell(const char *how, const char *path, int done)
{
	printf("%s %s: %s\n", how, path, done ? strerror(errno) : "yes");
}

/* Use so many hugepages of the default size. */
static int use_pages(int count)
{
	size_t size = (size_t)count << 21;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (memory == MAP_FAILED) {
		printf("%d pages: %s\n", count, strerror(errno));
		return 1;
	}
	for (size_t at = 0; at < size; at += 1 << 21)
		memory[at] = 1;
	printf("%d pages: used\n", count);
	return 0;
}

int main(int count, char *arguments[])
{
	char line[256];
	struct rlimit limit;
	FILE *file;

	if (count > 1)
		return use_pages(atoi(arguments[1]));
	file = fopen("/proc/self/status", "r");
	while (file && fgets(line, sizeof(line), file))
		for (size_t i = 0; i < sizeof(status) / sizeof(*status); i++)
			if (!strncmp(line, status[i], strlen(status[i])))
				fputs(line, stdout);
	getrlimit(RLIMIT_MEMLOCK, &limit);
	printf("memlock: %llu %llu\n", (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
	printf("HOME: %s\n", getenv("HOME"));
	for (size_t i = 0; i < sizeof(written) / sizeof(*written); i++)
		tell("writes", written[i], access(written[i], W_OK));
	for (size_t i = 0; i < sizeof(read_) / sizeof(*read_); i++) {
		int descriptor = open(read_[i], O_RDONLY);

		errno = descriptor < 0 ? errno : 0;
		if (descriptor >= 0 && read(descriptor, line, 1) == 0)
			errno = ENODATA; /* it is there, and empty */
		tell("reads", read_[i], errno);
		if (descriptor >= 0)
			close(descriptor);
	}
	return 0;
}
