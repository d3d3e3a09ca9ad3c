// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>

#include "files.h"
#include "status.h"

int debugfs_mount(void)
{
	char mounts[8192];

	if (file_read("/proc/mounts", mounts, sizeof(mounts)) > 0 &&
	    strstr(mounts, " " DEBUGFS " debugfs "))
		return 0;
	return mount("debugfs", DEBUGFS, "debugfs", 0, NULL) ? -errno : 0;
}

int status_read(struct status *status)
{
	int got = file_read(STATUS_PATH, status->text, sizeof(status->text));

	return got < 0 ? got : 0;
}

bool status_get(const struct status *status, const char *key, char *value, size_t size)
{
	const char *line = status->text;
	size_t len = strlen(key);

	value[0] = '\0';
	while (line && *line) {
		if (!strncmp(line, key, len) && line[len] == ':') {
			line += len + 1;
			line += strspn(line, " \t");
			snprintf(value, size, "%.*s", (int)strcspn(line, "\n"), line);
			return true;
		}
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return false;
}

bool status_page(const struct status *status, int cpu, struct status_page *line)
{
	char key[16], text[256], *word, *save;
	bool gpa = false;

	memset(line, 0, sizeof(*line));
	snprintf(key, sizeof(key), "cpu%d", cpu);
	if (!status_get(status, key, text, sizeof(text)) &&
	    !status_get(status, "page", text, sizeof(text)))
		return false;
	for (word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		char *value = strchr(word, '=');

		if (!value)
			continue;
		*value++ = '\0';
		if (!strcmp(word, "owner")) {
			snprintf(line->owner, sizeof(line->owner), "%s", value);
		} else if (!strcmp(word, "gpa")) {
			line->gpa = strtoull(value, NULL, 16);
			gpa = true;
		}
	}
	return gpa;
}

void status_print(const struct status *status)
{
	const char *line = status->text;

	while (*line) {
		int len = (int)strcspn(line, "\n");

		printf("# status: %.*s\n", len, line);
		line += len;
		if (*line)
			line++;
	}
}
