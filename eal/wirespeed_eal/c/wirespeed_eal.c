/* The pod's interfaces and EAL arguments, see wirespeed_eal.h. Behaves like the Python package wirespeed.eal. */
#define _GNU_SOURCE
#include "wirespeed_eal.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

extern char **environ;

#define MAX_CPUS 8192
#define MAX_DEPTH 100		/* of JSON; the annotations need five */
#define MIB (1 << 20)
#define UNLIMITED (1LL << 40)	/* bytes; for no limit, cgroup v1 has a huge number */

struct block {
	struct block *next;
	char data[];
};

struct ws_eal {
	struct block *blocks;	/* freed by ws_eal_close() */
	jmp_buf no_memory;
	struct ws_eal_sources sources;
	const char *hostname;
	struct ws_eal_interface *found;
	size_t count;
	const char *error;
};

/* Memory that is freed with the pod */

/* Returns zeroed memory, NULL if there is none: for callers that have something to release first. */
static void *try_grab(struct ws_eal *pod, size_t size)
{
	struct block *block = calloc(1, sizeof(*block) + size);

	if (!block)
		return NULL;
	block->next = pod->blocks;
	pod->blocks = block;
	return block->data;
}

static void *grab(struct ws_eal *pod, size_t size)
{
	void *data = try_grab(pod, size);

	if (!data)
		longjmp(pod->no_memory, 1);
	return data;
}

static char *copied(struct ws_eal *pod, const char *text, size_t length)
{
	char *copy = grab(pod, length + 1);

	memcpy(copy, text, length);
	return copy;
}

__attribute__((format(printf, 2, 3)))
static char *formatted(struct ws_eal *pod, const char *format, ...)
{
	va_list args;
	char *text;
	int length;

	va_start(args, format);
	length = vsnprintf(NULL, 0, format, args);
	va_end(args);
	text = grab(pod, (size_t)length + 1);
	va_start(args, format);
	vsnprintf(text, (size_t)length + 1, format, args);
	va_end(args);
	return text;
}

/* Returns the text of a file, "" if it cannot be read. */
static char *read_file(struct ws_eal *pod, const char *path)
{
	char *text = grab(pod, 1);
	FILE *file = fopen(path, "re");
	char piece[4096];
	size_t length = 0, got;

	if (!file)
		return text;
	while ((got = fread(piece, 1, sizeof(piece), file)) > 0) {
		char *longer = try_grab(pod, length + got + 1);

		if (!longer) {
			fclose(file);
			longjmp(pod->no_memory, 1);
		}
		memcpy(longer, text, length);
		memcpy(longer + length, piece, got);
		text = longer;
		length += got;
	}
	fclose(file);
	return text;
}

static const char *variable(const struct ws_eal *pod, const char *name)
{
	size_t length = strlen(name);

	for (const char *const *each = pod->sources.environ; each && *each; each++)
		if (!strncmp(*each, name, length) && (*each)[length] == '=')
			return *each + length + 1;
	return "";
}

static int ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), tail = strlen(end);

	return length >= tail && !strcmp(text + length - tail, end);
}

/* JSON */

enum kind { JSON_NULL, JSON_TRUE, JSON_FALSE, JSON_INTEGER, JSON_FLOAT, JSON_STRING, JSON_LIST, JSON_OBJECT };

struct json {
	enum kind kind;
	long long integer;
	const char *text;
	const char *key;	/* in an object */
	struct json *first, *next;
};

static char *put_utf8(char *out, unsigned long code)
{
	if (code < 0x80) {
		*out++ = (char)code;
	} else if (code < 0x800) {
		*out++ = (char)(0xc0 | code >> 6);
		*out++ = (char)(0x80 | (code & 0x3f));
	} else if (code < 0x10000) {
		*out++ = (char)(0xe0 | code >> 12);
		*out++ = (char)(0x80 | (code >> 6 & 0x3f));
		*out++ = (char)(0x80 | (code & 0x3f));
	} else {
		*out++ = (char)(0xf0 | code >> 18);
		*out++ = (char)(0x80 | (code >> 12 & 0x3f));
		*out++ = (char)(0x80 | (code >> 6 & 0x3f));
		*out++ = (char)(0x80 | (code & 0x3f));
	}
	return out;
}

/* Returns the value of exactly `digits` hexadecimal digits, or -1. */
static long hexadecimal(const char *text, int digits)
{
	long value = 0;

	for (int i = 0; i < digits; i++) {
		if (!isxdigit((unsigned char)text[i]))
			return -1;
		value = value * 16 + (isdigit((unsigned char)text[i]) ? text[i] - '0' : tolower(text[i]) - 'a' + 10);
	}
	return value;
}

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

/* Reads a string after its opening quote; returns the position after the closing one, NULL if it is invalid. */
static const char *json_string(struct ws_eal *pod, const char *at, const char **text)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	char *out = grab(pod, strlen(at) + 1);

	*text = out;
	for (; *at != '"'; at++) {
		const char *name;
		long code, low;

		if ((unsigned char)*at < 0x20)
			return NULL;
		if (*at != '\\') {
			*out++ = *at;
			continue;
		}
		at++;
		if (*at && (name = strchr(names, *at))) {
			*out++ = values[name - names];
			continue;
		}
		if (*at != 'u' || (code = hexadecimal(at + 1, 4)) < 0)
			return NULL;
		at += 4;
		if (code >= 0xd800 && code < 0xdc00 && at[1] == '\\' && at[2] == 'u' &&
		    (low = hexadecimal(at + 3, 4)) >= 0xdc00 && low < 0xe000) {
			code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
			at += 6;
		}
		out = put_utf8(out, (unsigned long)code);
	}
	*out = 0;
	return at + 1;
}

static const char *json_number(const char *at, struct json *value)
{
	const char *start = at, *digits = at += *at == '-';
	int whole = 1;

	while (isdigit((unsigned char)*at))
		at++;
	if (at == digits || (*digits == '0' && at > digits + 1))
		return NULL;
	if (*at == '.') {
		whole = 0;
		if (!isdigit((unsigned char)*++at))
			return NULL;
		while (isdigit((unsigned char)*at))
			at++;
	}
	if (*at == 'e' || *at == 'E') {
		whole = 0;
		at++;
		at += *at == '+' || *at == '-';
		if (!isdigit((unsigned char)*at))
			return NULL;
		while (isdigit((unsigned char)*at))
			at++;
	}
	value->kind = whole ? JSON_INTEGER : JSON_FLOAT;
	value->integer = strtoll(start, NULL, 10);
	return at;
}

static const char *json_value(struct ws_eal *pod, const char *at, struct json **value, int depth);

/* Reads the members of a list or an object after its opening bracket. */
static const char *json_members(struct ws_eal *pod, const char *at, struct json *parent, int depth)
{
	char close = parent->kind == JSON_LIST ? ']' : '}';
	struct json **last = &parent->first;

	at = skip_space(at);
	if (*at == close)
		return at + 1;
	for (;;) {
		const char *key = NULL;

		if (parent->kind == JSON_OBJECT) {
			at = skip_space(at);
			if (*at != '"' || !(at = json_string(pod, at + 1, &key)))
				return NULL;
			at = skip_space(at);
			if (*at++ != ':')
				return NULL;
		}
		if (!(at = json_value(pod, at, last, depth + 1)))
			return NULL;
		(*last)->key = key;
		last = &(*last)->next;
		at = skip_space(at);
		if (*at == close)
			return at + 1;
		if (*at++ != ',')
			return NULL;
	}
}

static const char *json_value(struct ws_eal *pod, const char *at, struct json **value, int depth)
{
	static const struct { const char *word; enum kind kind; } words[] = {
		{ "null", JSON_NULL }, { "true", JSON_TRUE }, { "false", JSON_FALSE },
		{ "NaN", JSON_FLOAT }, { "Infinity", JSON_FLOAT }, { "-Infinity", JSON_FLOAT },
	};
	struct json *made = *value = grab(pod, sizeof(*made));

	at = skip_space(at);
	if (depth > MAX_DEPTH)
		return NULL;
	if (*at == '[' || *at == '{') {
		made->kind = *at == '[' ? JSON_LIST : JSON_OBJECT;
		return json_members(pod, at + 1, made, depth);
	}
	if (*at == '"') {
		made->kind = JSON_STRING;
		return json_string(pod, at + 1, &made->text);
	}
	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		if (!strncmp(at, words[i].word, strlen(words[i].word))) {
			made->kind = words[i].kind;
			return at + strlen(words[i].word);
		}
	}
	return json_number(at, made);
}

/* Parses a text with a single value; returns NULL if it is invalid. */
static struct json *json_parse(struct ws_eal *pod, const char *text)
{
	struct json *value;
	const char *end = json_value(pod, text, &value, 0);

	return end && !*skip_space(end) ? value : NULL;
}

/* Returns an object's member, NULL if there is none. Of repeated keys, the last one counts. */
static const struct json *member(const struct json *object, const char *key)
{
	const struct json *found = NULL;

	if (!object || object->kind != JSON_OBJECT)
		return NULL;
	for (const struct json *each = object->first; each; each = each->next)
		if (!strcmp(each->key, key))
			found = each;
	return found;
}

static const char *text_of(const struct json *object, const char *key)
{
	const struct json *value = member(object, key);

	return value && value->kind == JSON_STRING ? value->text : "";
}

static int number_of(const struct json *object, const char *key)
{
	const struct json *value = member(object, key);

	return value && value->kind == JSON_INTEGER && value->integer >= 0 && value->integer < 1LL << 31
		? (int)value->integer : 0;
}

/* The Downward API's annotations file: NAME="value", quoted as by Go's strconv.Quote */

/* Returns the unquoted text between the quotes; NULL if the line does not end after the closing quote. */
static char *unquoted(struct ws_eal *pod, const char *at, const char *end)
{
	static const char names[] = "abfnrtv", values[] = "\a\b\f\n\r\t\v";
	char *text = grab(pod, (size_t)(end - at) * 2 + 1), *out = text;

	for (; at < end && *at != '"'; at++) {
		const char *name;
		long code;

		if (*at != '\\') {
			*out++ = *at;
			continue;
		}
		if (++at >= end)
			return NULL;
		if (*at == 'x' && (code = hexadecimal(at + 1, 2)) >= 0) {
			*out++ = (char)code;
			at += 2;
		} else if (*at == 'u' && (code = hexadecimal(at + 1, 4)) >= 0) {
			out = put_utf8(out, (unsigned long)code);
			at += 4;
		} else if (*at == 'U' && (code = hexadecimal(at + 1, 8)) >= 0) {
			out = put_utf8(out, code < 0x110000 ? (unsigned long)code : 0xfffd);
			at += 8;
		} else if (strspn(at, "01234567") >= 3) {
			*out++ = (char)((at[0] - '0') << 6 | (at[1] - '0') << 3 | (at[2] - '0'));
			at += 2;
		} else {
			name = strchr(names, *at);
			*out++ = name && *at ? values[name - names] : *at;
		}
	}
	if (at >= end)
		return NULL;
	for (at++; at < end; at++)
		if (!isspace((unsigned char)*at))
			return NULL;
	*out = 0;
	return text;
}

/* Returns the annotation of that name, the last one if repeated; "" if there is none. */
static const char *annotation(struct ws_eal *pod, const char *file, const char *name)
{
	const char *found = "";

	for (const char *line = file; *line;) {
		const char *end = strchrnul(line, '\n'), *equals = memchr(line, '=', (size_t)(end - line));

		if (equals && (size_t)(equals - line) == strlen(name) && !memcmp(line, name, strlen(name)) &&
		    equals + 1 < end && equals[1] == '"') {
			const char *value = unquoted(pod, equals + 2, end);

			if (value)
				found = value;
		}
		line = *end ? end + 1 : end;
	}
	return found;
}

/* Interfaces */

static struct ws_eal_interface *add_interface(struct ws_eal *pod)
{
	struct ws_eal_interface *grown = grab(pod, (pod->count + 1) * sizeof(*grown)), *made;
	static const char *const none[] = { NULL };

	if (pod->count)
		memcpy(grown, pod->found, pod->count * sizeof(*grown));
	made = &grown[pod->count++];
	*made = (struct ws_eal_interface){
		.name = "", .network = "", .kind = "unknown", .ips = none, .mac = "", .pci = "", .path = "",
		.role = "", .mode = "", .driver = "", .queues = 1, .secret = "", .version = "",
	};
	pod->found = grown;
	return made;
}

static char *lowered(struct ws_eal *pod, const char *text, size_t length)
{
	char *copy = copied(pod, text, length);

	for (char *each = copy; *each; each++)
		*each = (char)tolower((unsigned char)*each);
	return copy;
}

static int is_one_of(const char *text, const char *const *words)
{
	for (; *words; words++)
		if (!strcmp(text, *words))
			return 1;
	return 0;
}

/* Returns the strings in a list. With `key`, the list has objects: returns their member `key` up to its "/". */
static const char *const *strings_of(struct ws_eal *pod, const struct json *list, const char *key)
{
	const char **found;
	size_t count = 0;

	if (!list || list->kind != JSON_LIST)
		list = NULL;
	for (const struct json *each = list ? list->first : NULL; each; each = each->next)
		count++;
	found = grab(pod, (count + 1) * sizeof(*found));
	count = 0;
	for (const struct json *each = list ? list->first : NULL; each; each = each->next) {
		const char *text = each->kind == JSON_STRING ? each->text : NULL;

		if (key) {
			text = text_of(each, key);
			text = copied(pod, text, strcspn(text, "/"));
			if (!*text)
				continue;
		}
		if (text)
			found[count++] = text;
	}
	return found;
}

static void add_status(struct ws_eal *pod, const struct json *entry)
{
	static const char *const kinds[] = { "pci", "vhost-user", "memif", "vdpa", NULL };
	struct ws_eal_interface *made = add_interface(pod);
	const struct json *info = member(entry, "device-info"), *device;
	const struct json *is_default = member(entry, "default");
	const char *kind = text_of(info, "type"), *pci;
	int memif = !strcmp(kind, "memif");

	made->name = text_of(entry, "interface");
	made->network = text_of(entry, "name");
	made->is_default = is_default && is_default->kind == JSON_TRUE;
	made->ips = strings_of(pod, member(entry, "ips"), NULL);
	made->mac = text_of(entry, "mac");
	made->mtu = number_of(entry, "mtu");
	if (!is_one_of(kind, kinds))
		return;
	device = member(info, kind);
	pci = text_of(device, "pci-address");
	made->kind = kind;
	made->version = text_of(info, "version");
	made->pci = lowered(pod, pci, strlen(pci));
	made->path = text_of(device, "path");
	made->driver = text_of(device, "driver");
	made->role = text_of(device, memif ? "role" : "mode");
	made->mode = memif ? text_of(device, "mode") : "";
}

static const char *first_said(const char *one, const char *other)
{
	return *one ? one : other;
}

static struct ws_eal_interface *interface_named(struct ws_eal *pod, const char *name)
{
	for (size_t i = 0; i < pod->count; i++)
		if (!strcmp(pod->found[i].name, name))
			return &pod->found[i];
	return NULL;
}

/* Adds configuration data to the interface of its name. Values from device-info take precedence. */
static void add_data(struct ws_eal *pod, const struct json *data, const char *folder)
{
	const struct json *config = member(data, "config"), *part;
	const char *type = text_of(config, "iftype"), *name = text_of(data, "ifName"), *file, *kind;
	struct ws_eal_interface *interface;
	int memif = !strcmp(type, "memif");

	kind = memif ? "memif" : !strcmp(type, "vhostuser") ? "vhost-user" : "";
	if (!*kind || !*name)
		return;
	interface = interface_named(pod, name);
	if (!interface) {
		interface = add_interface(pod);
		interface->name = name;
		interface->network = text_of(data, "name");
		interface->ips = strings_of(pod, member(member(data, "ipResult"), "ips"), "address");
	}
	if (strcmp(interface->kind, "unknown") && strcmp(interface->kind, kind))
		return;
	part = member(config, memif ? "memif" : "vhost");
	file = text_of(part, "socketfile");
	interface->kind = kind;
	if (!*interface->path && *file)
		interface->path = *file == '/' ? file
			: formatted(pod, "%s%s%s", folder, ends_with(folder, "/") || !*folder ? "" : "/", file);
	interface->role = first_said(interface->role, text_of(part, memif ? "role" : "mode"));
	if (memif && !*interface->mode)
		interface->mode = first_said(text_of(part, "mode"), "ethernet");
	interface->mac = first_said(interface->mac, text_of(config, "mac"));
	interface->mtu = interface->mtu ? interface->mtu : number_of(config, "mtu");
	if (number_of(config, "queues"))
		interface->queues = number_of(config, "queues");
	interface->ring_size = number_of(part, "ringSize");
	interface->buffer_size = number_of(part, "bufferSize");
	interface->secret = text_of(part, "secret");
}

static void each_object(struct ws_eal *pod, const char *text, const char *folder)
{
	const struct json *list = json_parse(pod, *text ? text : "[]");

	if (!list || list->kind != JSON_LIST)
		return;
	for (const struct json *each = list->first; each; each = each->next) {
		if (each->kind != JSON_OBJECT)
			continue;
		if (folder)
			add_data(pod, each, folder);
		else
			add_status(pod, each);
	}
}

/* Configuration data in files; the newest one for each interface */

struct data_file {
	struct data_file *next;
	const char *name, *folder;
	const struct json *data;
	struct timespec age;
};

static int is_ours(const struct ws_eal *pod, const struct json *data)
{
	const char *said = text_of(data, "podName");

	return !*said || !strcmp(said, first_said(variable(pod, "POD_NAME"), pod->hostname));
}

static void take_file(struct ws_eal *pod, struct data_file **files, const char *path, int named)
{
	struct data_file *file = grab(pod, sizeof(*file)), **at = files;
	const char *slash = strrchr(path, '/');
	struct stat stat_of;

	file->data = json_parse(pod, read_file(pod, path));
	if (!file->data || file->data->kind != JSON_OBJECT || stat(path, &stat_of))
		return;
	if (!named && !is_ours(pod, file->data))
		return;
	file->name = text_of(file->data, "ifName");
	file->folder = slash == path ? "/" : slash ? copied(pod, path, (size_t)(slash - path)) : ".";
	file->age = stat_of.st_mtim;
	while (*at && strcmp((*at)->name, file->name) < 0)
		at = &(*at)->next;
	if (*at && !strcmp((*at)->name, file->name)) {
		const struct timespec *known = &(*at)->age;

		if (known->tv_sec > file->age.tv_sec ||
		    (known->tv_sec == file->age.tv_sec && known->tv_nsec >= file->age.tv_nsec))
			return;
		file->next = (*at)->next;
	} else {
		file->next = *at;
	}
	*at = file;
}

static int by_name(const struct dirent **one, const struct dirent **other)
{
	return strcmp((*one)->d_name, (*other)->d_name);
}

static int is_entry(const struct dirent *entry)
{
	return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int is_data_file(const struct dirent *entry)
{
	return !strncmp(entry->d_name, "configData-", 11) && ends_with(entry->d_name, ".json");
}

/* Returns the sorted names of a folder's entries that `wanted` accepts; ends with NULL. */
static const char **names_in(struct ws_eal *pod, const char *folder, int (*wanted)(const struct dirent *))
{
	struct dirent **entries = NULL;
	int count = scandir(folder, &entries, wanted, by_name), complete;
	const char **names = try_grab(pod, ((size_t)(count > 0 ? count : 0) + 1) * sizeof(*names));

	complete = names != NULL;
	for (int i = 0; i < count; i++) {
		size_t size = strlen(entries[i]->d_name) + 1;
		char *name = complete ? try_grab(pod, size) : NULL;

		if (name)
			names[i] = memcpy(name, entries[i]->d_name, size);
		else
			complete = 0;
		free(entries[i]);
	}
	free(entries);
	if (!complete)
		longjmp(pod->no_memory, 1);
	return names;
}

static void take_place(struct ws_eal *pod, struct data_file **files, const char *place)
{
	struct stat stat_of;

	if (stat(place, &stat_of) || !S_ISDIR(stat_of.st_mode)) {
		take_file(pod, files, place, 1);
		return;
	}
	for (const char **name = names_in(pod, place, is_data_file); *name; name++)
		take_file(pod, files, formatted(pod, "%s%s%s", place, ends_with(place, "/") ? "" : "/", *name), 0);
}

/* Reads the devices' directories of vhost-user pools. */
static void take_pool(struct ws_eal *pod, struct data_file **files)
{
	const char *folder = formatted(pod, "%s/run/vhost-user", pod->sources.root);

	for (const char **name = names_in(pod, folder, is_entry); *name; name++)
		take_place(pod, files, formatted(pod, "%s/%s", folder, *name));
}

static void add_files(struct ws_eal *pod, const char *mapped)
{
	struct data_file *files = NULL;

	if (!pod->sources.sockets) {
		take_place(pod, &files, mapped);
		take_pool(pod, &files);
	} else {
		for (const char *const *place = pod->sources.sockets; *place; place++)
			take_place(pod, &files, *place);
	}
	for (struct data_file *file = files; file; file = file->next)
		add_data(pod, file->data, file->folder);
}

/* Devices in the environment */

static int is_pci(const char *text)
{
	static const char form[] = "xxxx:xx:dx.o";	/* x hexadecimal, d 0 or 1, o octal */

	for (size_t i = 0; i < sizeof(form); i++) {
		char c = text[i];
		int fits = form[i] == 'x' ? isxdigit((unsigned char)c) : form[i] == 'd' ? c == '0' || c == '1'
			: form[i] == 'o' ? c >= '0' && c <= '7' : c == form[i];

		if (!fits)
			return 0;
		if (!c)
			break;
	}
	return 1;
}

static int by_text(const void *one, const void *other)
{
	return strcmp(*(const char *const *)one, *(const char *const *)other);
}

/* Returns the PCI addresses in PCIDEVICE_<RESOURCE>, sorted by variable; ends with NULL. */
static const char **devices(struct ws_eal *pod)
{
	const char **variables, **found;
	size_t count = 0, total = 0, length = 1;

	for (const char *const *each = pod->sources.environ; each && *each; each++, total++)
		length += strlen(*each);
	variables = grab(pod, (total + 1) * sizeof(*variables));
	found = grab(pod, (length + 1) * sizeof(*found));
	total = 0;
	for (const char *const *each = pod->sources.environ; each && *each; each++) {
		const char *equals = strchrnul(*each, '=');
		int is_info = equals - *each >= 5 && !strncmp(equals - 5, "_INFO", 5);

		/* Replaces "=": it would sort a name after a longer one that continues with a digit. */
		if (!strncmp(*each, "PCIDEVICE_", 10) && *equals && !is_info)
			variables[total++] = formatted(pod, "%.*s\1%s", (int)(equals - *each), *each, equals + 1);
	}
	qsort(variables, total, sizeof(*variables), by_text);
	for (size_t i = 0; i < total; i++) {
		const char *at = strchr(variables[i], '\1') + 1;

		for (;; at++) {
			size_t span = strcspn(at, ",");
			size_t lead = strspn(at, " \t\n\r\v\f");
			const char *address;

			if (lead > span)
				lead = span;
			address = lowered(pod, at + lead, span - lead);
			for (size_t end = strlen(address); end && isspace((unsigned char)address[end - 1]); end--)
				((char *)address)[end - 1] = 0;
			if (is_pci(address) && !is_one_of(address, found))
				found[count++] = address;
			at += span;
			if (!*at)
				break;
		}
	}
	return found;
}

static int take_device(const char **left, const char *address)
{
	for (; *left; left++) {
		if (!strcmp(*left, address)) {
			for (; *left; left++)
				left[0] = left[1];
			return 1;
		}
	}
	return 0;
}

/* Assigns devices to the interfaces that name them, then in order to the interfaces of unknown kind. */
static void add_devices(struct ws_eal *pod)
{
	const char **left = devices(pod);

	for (size_t i = 0; i < pod->count; i++) {
		struct ws_eal_interface *interface = &pod->found[i];
		int is_pci_kind = !strcmp(interface->kind, "pci");

		if ((is_pci_kind || !strcmp(interface->kind, "vdpa")) && take_device(left, interface->pci) && is_pci_kind)
			interface->kind = "sr-iov";
	}
	for (size_t i = 0; i < pod->count; i++) {
		struct ws_eal_interface *interface = &pod->found[i];

		if (strcmp(interface->kind, "unknown"))
			continue;
		interface->kind = "host";
		if (interface->is_default || !*left)
			continue;
		interface->kind = "sr-iov";
		interface->pci = *left;
		interface->version = "1.0.0";
		take_device(left, *left);
	}
	for (; *left; left++) {
		struct ws_eal_interface *interface = add_interface(pod);

		interface->kind = "sr-iov";
		interface->pci = *left;
		interface->version = "1.0.0";
	}
}

/* Calls `work`, which may allocate memory; returns 0 if that fails. */
static int guarded(struct ws_eal *pod, void (*work)(struct ws_eal *, void *), void *with)
{
	if (setjmp(pod->no_memory)) {
		pod->error = "no memory";
		return 0;
	}
	work(pod, with);
	return 1;
}

static void read_pod(struct ws_eal *pod, void *hostname)
{
	const char *file = read_file(pod, formatted(pod, "%s/annotations", pod->sources.podinfo));
	const char *mapped = first_said(annotation(pod, file, "userspace/mapped-dir"), "/var/lib/cni/usrspcni");

	pod->hostname = pod->sources.hostname ? pod->sources.hostname : copied(pod, hostname, strlen(hostname));
	each_object(pod, annotation(pod, file, "k8s.v1.cni.cncf.io/network-status"), NULL);
	each_object(pod, annotation(pod, file, "userspace/configuration-data"), mapped);
	add_files(pod, mapped);
	add_devices(pod);
}

struct ws_eal *ws_eal_open(const struct ws_eal_sources *sources)
{
	struct ws_eal *pod = calloc(1, sizeof(*pod));
	char name[256] = "";

	if (!pod)
		return NULL;
	if (sources)
		pod->sources = *sources;
	if (!pod->sources.podinfo)
		pod->sources.podinfo = "/etc/podnetinfo";
	if (!pod->sources.root)
		pod->sources.root = "";
	if (!pod->sources.environ)
		pod->sources.environ = (const char *const *)environ;
	gethostname(name, sizeof(name) - 1);
	pod->error = "";
	if (guarded(pod, read_pod, name))
		return pod;
	ws_eal_close(pod);
	return NULL;
}

void ws_eal_close(struct ws_eal *pod)
{
	struct block *next;

	if (!pod)
		return;
	for (struct block *block = pod->blocks; block; block = next) {
		next = block->next;
		free(block);
	}
	free(pod);
}

size_t ws_eal_count(const struct ws_eal *pod)
{
	return pod->count;
}

const struct ws_eal_interface *ws_eal_interface(const struct ws_eal *pod, size_t index)
{
	return index < pod->count ? &pod->found[index] : NULL;
}

const char *ws_eal_error(const struct ws_eal *pod)
{
	return pod->error;
}

/* Returns whether the path is a socket on which nobody listens. */
static int is_stale(const char *path)
{
	static const int types[] = { SOCK_STREAM, SOCK_SEQPACKET };	/* vhost-user, memif */
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return 0;
	memcpy(address.sun_path, path, strlen(path));
	for (size_t i = 0; i < 2; i++) {
		int fd = socket(AF_UNIX, types[i] | SOCK_CLOEXEC, 0), failed, why;

		if (fd < 0)
			return 0;
		failed = connect(fd, (struct sockaddr *)&address, sizeof(address));
		why = errno;
		close(fd);
		if (failed && why == ECONNREFUSED)
			return 1;
		if (!failed || why != EPROTOTYPE)
			return 0;
	}
	return 0;
}

static void remove_stale(struct ws_eal *pod, void *with)
{
	static const char *const listeners[] = { "server", "master", NULL };
	int *removed = with;

	for (size_t i = 0; i < pod->count; i++) {
		const struct ws_eal_interface *interface = &pod->found[i];

		if (!is_one_of(interface->role, listeners) || !is_stale(interface->path))
			continue;
		if (unlink(interface->path)) {
			pod->error = formatted(pod, "%s: %s", interface->path, strerror(errno));
			*removed = -1;
			return;
		}
		++*removed;
	}
}

int ws_eal_remove_stale(struct ws_eal *pod)
{
	int removed = 0;

	return guarded(pod, remove_stale, &removed) ? removed : -1;
}

/* CPUs and hugepages of the container */

/* Adds the numbers of a kernel list such as "0-3,8" to `set`; returns whether there was any. */
static int parse_list(const char *text, unsigned char *set)
{
	int any = 0;

	text += strspn(text, " \t\n");
	while (*text) {
		char *end;
		long low, high;

		if (!isdigit((unsigned char)*text))
			goto next;
		low = high = strtol(text, &end, 10);
		if (*end == '-' && isdigit((unsigned char)end[1]))
			high = strtol(end + 1, &end, 10);
		if (!*end || *end == ',' || isspace((unsigned char)*end))
			for (; low <= high && low < MAX_CPUS; low++)
				any = set[low] = 1;
next:
		text += strcspn(text, ",");
		text += *text == ',';
	}
	return any;
}

/* Finds the CPUs in both the process's affinity and the container's cpuset; returns their number. */
static int cpus(struct ws_eal *pod, int *found)
{
	static const char *const files[] = {
		"cpuset.cpus.effective", "cpuset/cpuset.effective_cpus", "cpuset/cpuset.cpus",
	};
	cpu_set_t *mine = grab(pod, CPU_ALLOC_SIZE(MAX_CPUS));
	unsigned char *listed = grab(pod, MAX_CPUS);
	int count = 0;

	sched_getaffinity(0, CPU_ALLOC_SIZE(MAX_CPUS), mine);
	for (size_t i = 0; i < 3; i++)
		if (parse_list(read_file(pod, formatted(pod, "%s/sys/fs/cgroup/%s", pod->sources.root, files[i])), listed))
			break;
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		if (CPU_ISSET_S(cpu, CPU_ALLOC_SIZE(MAX_CPUS), mine) && listed[cpu])
			found[count++] = cpu;
	if (count)
		return count;
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		if (CPU_ISSET_S(cpu, CPU_ALLOC_SIZE(MAX_CPUS), mine))
			found[count++] = cpu;
	return count;
}

/* Returns the number in a file; -1 if there is none, or if it is UNLIMITED or more. */
static long long number_in(struct ws_eal *pod, const char *path)
{
	const char *text = read_file(pod, path);
	char *end;
	long long value;

	text += strspn(text, " \t\n");
	if (!isdigit((unsigned char)*text))
		return -1;
	errno = 0;
	value = strtoll(text, &end, 10);
	end += strspn(end, " \t\n");
	return *end || errno || value >= UNLIMITED ? -1 : value;
}

/* Returns the MiB of one page size in the Downward API's files. */
static long long downward_limit(struct ws_eal *pod, const char *size)
{
	static const char *const kinds[] = { "limit", "request" };
	const char *container = variable(pod, "CONTAINER_NAME");
	int named = *container && !strchr(container, '/');

	for (size_t i = 0; i < 2; i++) {
		for (int own = named; own >= 0; own--) {
			long long value = number_in(pod, formatted(pod, "%s/hugepages_%s_%s%s%s", pod->sources.podinfo, size,
				kinds[i], own ? "_" : "", own ? container : ""));

			if (value > 0)
				return value >= MIB ? value / MIB : value;
		}
	}
	return 0;
}

/* Returns the MiB of hugepages that the container may use; 0 if no source tells. */
static long long hugepages(struct ws_eal *pod)
{
	static const struct { const char *cgroup, *downward; } sizes[] = { { "1GB", "1G" }, { "2MB", "2M" } };
	const char *root = pod->sources.root;
	long long total = 0;

	for (size_t i = 0; i < 2; i++) {
		const char *size = sizes[i].cgroup;
		long long value = number_in(pod, formatted(pod, "%s/sys/fs/cgroup/hugetlb.%s.max", root, size));

		if (value < 0)
			value = number_in(pod, formatted(pod, "%s/sys/fs/cgroup/hugetlb/hugetlb.%s.limit_in_bytes", root, size));
		total += value > 0 ? value / MIB : 0;
	}
	return total ? total : downward_limit(pod, "1G") + downward_limit(pod, "2M");
}

/* EAL arguments */

static int is_plain(const char *text)
{
	for (const char *each = text; *each; each++)
		if (isspace((unsigned char)*each) || strchr(",\"'\\", *each))
			return 0;
	return *text != 0;
}

static int is_mac(const char *text)
{
	for (int i = 0; i < 17; i++)
		if (i % 3 == 2 ? text[i] != ':' : !isxdigit((unsigned char)text[i]))
			return 0;
	return !text[17];
}

static const char *with_mac(struct ws_eal *pod, const char *device, const struct ws_eal_interface *interface)
{
	return is_mac(interface->mac) ? formatted(pod, "%s,mac=%s", device, interface->mac) : device;
}

static int check_path(struct ws_eal *pod, const struct ws_eal_interface *interface)
{
	if (is_plain(interface->path))
		return 1;
	pod->error = formatted(pod, "interface %s: its path cannot be an argument: expected no space, comma or quote, "
		"got \"%s\"", interface->name, interface->path);
	return 0;
}

static const char *virtio_user(struct ws_eal *pod, const struct ws_eal_interface *interface, int number)
{
	const char *device;

	if (!check_path(pod, interface))
		return NULL;
	device = formatted(pod, "virtio_user%d,path=%s", number, interface->path);
	if (!strcmp(interface->kind, "vhost-user") && !strcmp(interface->role, "server"))
		device = formatted(pod, "%s,server=1", device);
	if (interface->queues > 1)
		device = formatted(pod, "%s,queues=%d", device, interface->queues);
	return with_mac(pod, device, interface);
}

static const char *net_memif(struct ws_eal *pod, const struct ws_eal_interface *interface, int number)
{
	const char *role = !strcmp(interface->role, "master") ? "server"
		: !strcmp(interface->role, "slave") ? "client" : NULL, *device;

	if (*interface->mode && strcmp(interface->mode, "ethernet")) {
		pod->error = formatted(pod, "interface %s: DPDK has no memif of mode %s, only ethernet", interface->name,
			interface->mode);
		return NULL;
	}
	if (!role) {
		pod->error = formatted(pod, "interface %s: expected memif's role master or slave, got \"%s\"",
			interface->name, interface->role);
		return NULL;
	}
	if (!check_path(pod, interface))
		return NULL;
	device = formatted(pod, "net_memif%d,id=0,role=%s,socket=%s,socket-abstract=no", number, role, interface->path);
	if (interface->ring_size)
		device = formatted(pod, "%s,rsize=%d", device, 31 - __builtin_clz((unsigned)interface->ring_size));
	if (interface->buffer_size)
		device = formatted(pod, "%s,bsize=%d", device, interface->buffer_size);
	if (*interface->secret) {
		if (!is_plain(interface->secret)) {
			pod->error = formatted(pod, "interface %s: its secret cannot be an argument", interface->name);
			return NULL;
		}
		device = formatted(pod, "%s,secret=%s", device, interface->secret);
	}
	return with_mac(pod, device, interface);
}

/* Adds virtual devices to `args`: vhost-user and vdpa, then memif. Returns their number, or -1. */
static int virtual_devices(struct ws_eal *pod, char **args, int *users)
{
	int count = 0, memifs = 0;

	*users = 0;
	for (size_t i = 0; i < pod->count; i++) {
		const struct ws_eal_interface *interface = &pod->found[i];
		int vdpa = !strcmp(interface->kind, "vdpa") && !strcmp(interface->driver, "vhost");
		const char *device;

		if (strcmp(interface->kind, "vhost-user") && !vdpa)
			continue;
		if (!(device = virtio_user(pod, interface, (*users)++)))
			return -1;
		args[count++] = formatted(pod, "--vdev=%s", device);
	}
	for (size_t i = 0; i < pod->count; i++) {
		const char *device;

		if (strcmp(pod->found[i].kind, "memif"))
			continue;
		if (!(device = net_memif(pod, &pod->found[i], memifs++)))
			return -1;
		args[count++] = formatted(pod, "--vdev=%s", device);
	}
	return count;
}

static void append_name(char *prefix, const char *name)
{
	char *out = prefix + strlen(prefix);

	if (*name)
		*out++ = '-';
	for (; *name; name++)
		*out++ = isalnum((unsigned char)*name) || strchr("._-", *name) ? *name : '-';
	*out = 0;
}

static char *file_prefix(struct ws_eal *pod, const char *given)
{
	const char *name = first_said(variable(pod, "POD_NAME"), pod->hostname);
	const char *container = variable(pod, "CONTAINER_NAME");
	char *prefix;

	if (given && *given)
		return formatted(pod, "--file-prefix=%s", given);
	prefix = grab(pod, strlen("--file-prefix=ws") + strlen(name) + strlen(container) + 3);
	strcpy(prefix, "--file-prefix=ws");
	append_name(prefix, name);
	append_name(prefix, container);
	return prefix;
}

struct wanted {
	struct ws_eal_options options;
	char **args;		/* NULL if they could not be made */
	int count;
};

/* Adds "-l" and the CPUs; returns 0 if the container has fewer than `wanted`. */
static int add_cpus(struct ws_eal *pod, int wanted, char **args, int *at)
{
	int *listed = grab(pod, MAX_CPUS * sizeof(*listed)), count = cpus(pod, listed);
	char *list = grab(pod, (size_t)count * 6 + 1), *out = list;

	if (wanted > count) {
		pod->error = formatted(pod, "%d CPUs are asked for, and the container has %d", wanted, count);
		return 0;
	}
	for (int i = 0; i < (wanted ? wanted : count); i++)
		out += sprintf(out, "%s%d", i ? "," : "", listed[i]);
	args[(*at)++] = copied(pod, "-l", 2);
	args[(*at)++] = list;
	return 1;
}

static void add_pci_devices(struct ws_eal *pod, char **args, int *at)
{
	int before = *at;

	for (size_t i = 0; i < pod->count; i++) {
		const struct ws_eal_interface *interface = &pod->found[i];
		int skip = !*interface->pci || (strcmp(interface->kind, "sr-iov") && strcmp(interface->kind, "pci"));

		for (int each = before + 1; each < *at; each += 2)
			skip |= !strcmp(args[each], interface->pci);
		if (skip)
			continue;
		args[(*at)++] = copied(pod, "-a", 2);
		args[(*at)++] = copied(pod, interface->pci, strlen(interface->pci));
	}
	if (*at == before)
		args[(*at)++] = copied(pod, "--no-pci", 8);
}

static void make_arguments(struct ws_eal *pod, void *with)
{
	struct wanted *wanted = with;
	char **args = grab(pod, (3 * pod->count + 9) * sizeof(*args));
	char **virtual = grab(pod, (pod->count + 1) * sizeof(*virtual));
	int users, at = 0, count = virtual_devices(pod, virtual, &users);
	long long mib;

	if (count < 0 || !add_cpus(pod, wanted->options.cores, args, &at))
		return;
	mib = wanted->options.memory >= 0 ? wanted->options.memory : hugepages(pod);
	if (mib) {
		args[at++] = copied(pod, "-m", 2);
		args[at++] = formatted(pod, "%lld", mib);
	}
	args[at++] = file_prefix(pod, wanted->options.file_prefix);
	if (users)	/* vhost-user supports at most 8 memory regions */
		args[at++] = copied(pod, "--single-file-segments", 22);
	add_pci_devices(pod, args, &at);
	memcpy(args + at, virtual, (size_t)count * sizeof(*virtual));
	wanted->args = args;
	wanted->count = at + count;
}

char **ws_eal_arguments(struct ws_eal *pod, const struct ws_eal_options *options, int *count)
{
	struct wanted wanted = { .options = { .memory = -1 } };

	if (options)
		wanted.options = *options;
	if (!guarded(pod, make_arguments, &wanted) || !wanted.args)
		return NULL;
	*count = wanted.count;
	return wanted.args;
}
