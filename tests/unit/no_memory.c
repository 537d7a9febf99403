/* Opens a pod again and again, each time with the next allocation of the library failing, until none fails.
 * Prints how many failed; ends with 1 if memory or a file is left after one of them. For glibc. */
#include "wirespeed_eal.h"

#include <stdio.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *old, size_t size);
void __libc_free(void *old);

static long live;		/* blocks; an open FILE is one too */
static long until_failure = -1;	/* calls of calloc(), which is what the library uses; -1: none fails */

void *malloc(size_t size)
{
	void *made = __libc_malloc(size);

	live += made != NULL;
	return made;
}

void *calloc(size_t count, size_t size)
{
	void *made = until_failure ? __libc_calloc(count, size) : NULL;

	until_failure -= until_failure >= 0;
	live += made != NULL;
	return made;
}

void *realloc(void *old, size_t size)
{
	void *made = __libc_realloc(old, size);

	live += made && !old;
	return made;
}

void free(void *old)
{
	live -= old != NULL;
	__libc_free(old);
}

int main(int argc, char **argv)
{
	struct ws_eal_sources sources = { .podinfo = argv[1], .root = argv[argc - 1] };
	long number = 0;

	for (int opened = 0; !opened; number++) {
		long before = live;
		struct ws_eal *pod;

		until_failure = number;
		pod = ws_eal_open(&sources);
		until_failure = -1;
		opened = pod != NULL;
		ws_eal_close(pod);
		if (live != before) {
			printf("allocation %ld: %ld blocks are left\n", number, live - before);
			return 1;
		}
	}
	printf("%ld\n", number - 1);
	return 0;
}
