/* The executable that the runtime calls: it sends a CNI call to the node agent, and returns the agent's answer.
 *
 * The name by which it is called selects the plugin. Frames, on a unix stream socket, one call per connection:
 *   request: "WSP1", u32 length (big-endian) of the rest: name NUL, each CNI_* variable "KEY=VALUE" NUL, NUL,
 *            standard input
 *   answer:  u32 exit status, u32 length, standard output; status ANSWER_AGAIN means that the agent is ending and
 *            has not begun the call: it is sent to the next agent
 * The shim reports success only if the agent did and all output was written.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/wirespeed/agent.sock"
#define DEFAULT_WAIT_MS 30000
#define CHECK_WAIT_MS 3000 /* for a connection, and for each part of the answer */
#define MAX_STDIN (4u << 20)
#define MAX_ANSWER (16u << 20)
#define ANSWER_AGAIN 0xffffffffu
#define RECHECK_MS 1000 /* the longest time between attempts: inotify does not report a mount over the folder */
#define BLIND_RECHECK_MS 50 /* the same without inotify, whose usual limit is 128 instances per user */

/* Error codes of the CNI specification, "Error". */
enum { INVALID_ENVIRONMENT = 4, IO_FAILURE = 5, DECODING_FAILURE = 6, TRY_AGAIN_LATER = 11 };

extern char **environ;

/* The request frame; standard input begins at `input`. */
static struct {
	char *bytes;
	size_t length, room, input;
} frame;

static const char *command = "";

/* Write everything; false with errno set on failure. */

static bool write_all(int fd, const char *bytes, size_t length)
{
	while (length > 0) {
		ssize_t n = write(fd, bytes, length);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		bytes += n;
		length -= (size_t)n;
	}
	return true;
}

/* The caller's version: the string "cniVersion" at the top level of standard input, if it is a supported one. */

static const char *const supported[] = {"0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
#define SUPPORTED (sizeof supported / sizeof *supported)

static const char *skip_space(const char *at, const char *end)
{
	while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r'))
		at++;
	return at;
}

/* Return the closing quote of the string whose first character is at `at`, or `end`. */
static const char *string_end(const char *at, const char *end)
{
	for (; at < end && *at != '"'; at++)
		if (*at == '\\' && at + 1 < end)
			at++;
	return at;
}

static const char *caller_version(const char *otherwise)
{
	static const char key[] = "cniVersion";
	const char *end = frame.bytes + frame.length, *found = otherwise;
	int depth = 0;

	for (const char *at = frame.bytes + frame.input; at < end; at++) {
		if (*at == '{' || *at == '[')
			depth++;
		else if (*at == '}' || *at == ']')
			depth--;
		if (*at != '"')
			continue;
		const char *text = at + 1;
		at = string_end(text, end);
		if (depth != 1 || (size_t)(at - text) != sizeof key - 1 || memcmp(text, key, sizeof key - 1) != 0)
			continue;
		const char *value = skip_space(at < end ? at + 1 : end, end);
		if (value == end || *value != ':')
			continue;
		value = skip_space(value + 1, end);
		found = otherwise; /* if the key appears twice, the last one counts */
		if (value == end || *value != '"')
			continue;
		at = string_end(++value, end);
		for (size_t i = 0; i < SUPPORTED; i++)
			if ((size_t)(at - value) == strlen(supported[i]) && memcmp(value, supported[i], strlen(supported[i])) == 0)
				found = supported[i];
	}
	return found;
}

/* Exit with an error object on standard output. */

static _Noreturn void fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

static _Noreturn void fail(int code, const char *format, ...)
{
	char message[1024], json[sizeof message * 2 + 128];
	va_list arguments;
	size_t at;

	va_start(arguments, format);
	vsnprintf(message, sizeof message, format, arguments);
	va_end(arguments);
	at = (size_t)sprintf(json, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"", caller_version("1.0.0"), code);
	for (const char *c = message; *c; c++) {
		if (*c == '"' || *c == '\\')
			json[at++] = '\\';
		/* The message must be one line of valid UTF-8, but a path or a variable may contain any byte. */
		json[at++] = *c >= ' ' && *c < 127 ? *c : '?';
	}
	memcpy(json + at, "\"}", 2);
	if (!write_all(STDOUT_FILENO, json, at + 2))
		dprintf(STDERR_FILENO, "wirespeed: %s\n", message);
	exit(1);
}

/* The request. */

static void append(const void *bytes, size_t length)
{
	if (length > frame.room - frame.length) {
		frame.room = (frame.length + length) * 2;
		frame.bytes = realloc(frame.bytes, frame.room);
		if (!frame.bytes)
			abort();
	}
	memcpy(frame.bytes + frame.length, bytes, length);
	frame.length += length;
}

static void read_stdin(void)
{
	char piece[1 << 16];
	ssize_t n;

	while ((n = read(STDIN_FILENO, piece, sizeof piece)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			fail(IO_FAILURE, "standard input: %s", strerror(errno));
		append(piece, (size_t)n);
		if (frame.length - frame.input > MAX_STDIN)
			fail(DECODING_FAILURE, "standard input: expected at most %u bytes", MAX_STDIN);
	}
}

static void build_frame(const char *name)
{
	uint32_t length;

	append("WSP1\0\0\0", 8);
	append(name, strlen(name) + 1);
	for (char **entry = environ; *entry; entry++)
		if (strncmp(*entry, "CNI_", 4) == 0)
			append(*entry, strlen(*entry) + 1);
	append("", 1);
	frame.input = frame.length;
	read_stdin();
	length = htonl((uint32_t)(frame.length - 8));
	memcpy(frame.bytes + 4, &length, sizeof length);
}

/* Reaching the agent. */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t patience_ms(void)
{
	const char *text = getenv("WIRESPEED_WAIT_MS");
	char *end;
	long value;

	if (!text || !*text)
		return DEFAULT_WAIT_MS;
	errno = 0;
	value = strtol(text, &end, 10);
	if (errno || *end || value < 0 || value > INT_MAX)
		fail(INVALID_ENVIRONMENT, "WIRESPEED_WAIT_MS: expected milliseconds, got '%s'", text);
	return value;
}

static bool may_come(int error)
{
	/* EAGAIN: the agent is running, but accepted no connection in time. */
	return error == ENOENT || error == ECONNREFUSED || error == EAGAIN || error == EINTR;
}

static const struct sockaddr_un *to_address(const char *path)
{
	static struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof address.sun_path)
		fail(INVALID_ENVIRONMENT, "WIRESPEED_SOCKET: expected a path of at most %zu bytes, got '%s'",
		     sizeof address.sun_path - 1, path);
	strcpy(address.sun_path, path);
	return &address;
}

/* Return a connection, or -1 with errno set. The kernel waits up to `wait` ms for room in the agent's queue. */
static int try_connect(const struct sockaddr_un *address, int64_t wait)
{
	struct timeval limit = {.tv_sec = wait / 1000, .tv_usec = wait % 1000 * 1000 + 1}, none = {0};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), error;

	if (fd < 0)
		fail(IO_FAILURE, "socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0) {
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof none);
		return fd;
	}
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* Watch the folder of `path`, or its nearest existing parent. False if that is impossible. */
static bool watch(int notices, const char *path)
{
	const uint32_t mask = IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
	char folder[sizeof(((struct sockaddr_un *)0)->sun_path)];

	strcpy(folder, path);
	for (;;) {
		char *slash = strrchr(folder, '/');
		if (!slash)
			strcpy(folder, ".");
		else
			slash[slash == folder] = '\0';
		if (inotify_add_watch(notices, folder, mask) >= 0)
			return true;
		if (errno != ENOENT || !slash || slash == folder)
			return false;
	}
}

/* Wait until something changes in the watched folders, for up to `wait` ms or until it is time to check anyway. */
static void await_change(int notices, bool watched, int64_t wait)
{
	struct pollfd polled = {.fd = watched ? notices : -1, .events = POLLIN};
	int64_t most = watched ? RECHECK_MS : BLIND_RECHECK_MS;
	char events[4096];

	if (poll(&polled, 1, (int)(wait < most ? wait : most)) > 0)
		while (read(notices, events, sizeof events) > 0)
			;
}

/* Return a connection to the agent; wait for the agent, and exit with an error if it does not come. */
static int reach_agent(const struct sockaddr_un *address)
{
	const int64_t patience = patience_ms(), until = now_ms() + patience;
	int64_t left = patience;
	int fd = try_connect(address, left), error = errno, notices;

	if (fd >= 0)
		return fd;
	notices = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	while (may_come(error) && (left = until - now_ms()) > 0) {
		/* Watch first, then connect, so that no change in between is missed. */
		bool watched = notices >= 0 && watch(notices, address->sun_path);
		fd = try_connect(address, left);
		error = errno;
		if (fd >= 0) {
			close(notices);
			return fd;
		}
		if (may_come(error))
			await_change(notices, watched, left);
	}
	if (may_come(error))
		fail(TRY_AGAIN_LATER, "no agent answers at %s within %lld ms (%s): is wirespeed agent running on this node?",
		     address->sun_path, (long long)patience, strerror(error));
	fail(IO_FAILURE, "agent at %s: %s", address->sun_path, strerror(error));
}

/* Making the call. */

/* Errors are ignored: an agent that refuses the call closes before it has read all, but its answer can be read. */
static void send_frame(int fd)
{
	size_t sent = 0;

	while (sent < frame.length) {
		ssize_t n = send(fd, frame.bytes + sent, frame.length - sent, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		sent += (size_t)n;
	}
}

static void receive(int fd, const char *path, void *into, size_t length)
{
	char *at = into;

	while (length > 0) {
		ssize_t n = recv(fd, at, length, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			fail(TRY_AGAIN_LATER, "agent at %s ended before it had answered %s: %s", path, command,
			     n == 0 ? "connection closed" : strerror(errno));
		at += n;
		length -= (size_t)n;
	}
}

/* Make the call and write its output; return its exit status, or -1 if it must be sent to the next agent. */
static int ask(int fd, const char *path)
{
	uint32_t head[2];
	char *output;

	send_frame(fd);
	receive(fd, path, head, sizeof head);
	uint32_t status = ntohl(head[0]), length = ntohl(head[1]);
	if (status == ANSWER_AGAIN)
		return -1;
	if (length > MAX_ANSWER)
		fail(DECODING_FAILURE, "agent at %s: expected an answer of at most %u bytes, got %u", path, MAX_ANSWER,
		     length);
	output = malloc(length + 1);
	if (!output)
		abort();
	receive(fd, path, output, length);
	if (!write_all(STDOUT_FILENO, output, length)) {
		dprintf(STDERR_FILENO, "wirespeed: standard output: %s\n", strerror(errno));
		return 1;
	}
	return status > 255 ? 1 : (int)status; /* only 0 is success */
}

static void answer_version(void)
{
	char text[256];
	size_t at = (size_t)sprintf(text, "{\"cniVersion\":\"%s\",\"supportedVersions\":[",
				    caller_version(supported[SUPPORTED - 1]));

	for (size_t i = 0; i < SUPPORTED; i++)
		at += (size_t)sprintf(text + at, "%s\"%s\"", i ? "," : "", supported[i]);
	at += (size_t)sprintf(text + at, "]}");
	exit(write_all(STDOUT_FILENO, text, at) ? 0 : 1);
}

/* `--check`, for probes: make a call that reaches a worker thread of the agent and changes nothing. */
static int check_agent(const struct sockaddr_un *address)
{
	static const char call[] = "meta\0CNI_COMMAND=VERSION\0\0{}";
	struct timeval limit = {.tv_sec = CHECK_WAIT_MS / 1000, .tv_usec = CHECK_WAIT_MS % 1000 * 1000};
	uint32_t length = htonl(sizeof call - 1), head[2];
	int fd;

	command = "--check";
	append("WSP1", 4);
	append(&length, sizeof length);
	append(call, sizeof call - 1);
	frame.input = frame.length;
	fd = try_connect(address, CHECK_WAIT_MS);
	if (fd < 0)
		fail(TRY_AGAIN_LATER, "no agent answers at %s: %s", address->sun_path, strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	send_frame(fd);
	receive(fd, address->sun_path, head, sizeof head);
	if (head[0] != 0)
		fail(TRY_AGAIN_LATER, "agent at %s: answered with status %u", address->sun_path, ntohl(head[0]));
	return 0;
}

/* Open closed standard streams, so that no other file gets their descriptors. Writing to stdout still fails. */
static void hold_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) != fd)
			abort();
}

int main(int count, char **arguments)
{
	const char *called = count > 0 ? arguments[0] : "wirespeed", *path = getenv("WIRESPEED_SOCKET");
	const char *slash = strrchr(called, '/');
	const struct sockaddr_un *address;
	int status;

	signal(SIGPIPE, SIG_IGN); /* write() returns the error instead, and we choose the exit status */
	hold_standard_streams();
	if (!path || !*path)
		path = DEFAULT_SOCKET;
	if (count == 2 && strcmp(arguments[1], "--check") == 0)
		return check_agent(to_address(path));
	if (getenv("CNI_COMMAND"))
		command = getenv("CNI_COMMAND");
	if (!*command && isatty(STDIN_FILENO)) {
		dprintf(STDERR_FILENO, "wirespeed: a CNI plugin, called by a container runtime with CNI_COMMAND set\n");
		return 1;
	}
	build_frame(slash ? slash + 1 : called);
	if (strcmp(command, "VERSION") == 0)
		answer_version();
	address = to_address(path);
	do {
		int fd = reach_agent(address);
		status = ask(fd, path);
		close(fd);
	} while (status < 0);
	return status;
}
