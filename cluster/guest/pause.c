/* What holds a pod's namespaces: waits until it is told to end. */
#include <signal.h>
#include <unistd.h>

static void end(int number)
{
	(void)number;
	_exit(0);
}

int main(void)
{
	struct sigaction action = {.sa_handler = end};
	sigaction(SIGTERM, &action, 0);
	sigaction(SIGINT, &action, 0);
	signal(SIGCHLD, SIG_IGN);
	for (;;)
		pause();
}
