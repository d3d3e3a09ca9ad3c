// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kmsg.h"

#define PREFIX "paraclock: "

int kmsg_open(void)
{
	int fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (lseek(fd, 0, SEEK_END) < 0) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

bool kmsg_find(int fd, const char *word)
{
	char record[8192], *text;
	bool found = false;
	ssize_t got;

	for (;;) {
		got = read(fd, record, sizeof(record) - 1);
		/* EPIPE: records were overwritten before they were read. */
		if (got < 0 && (errno == EPIPE || errno == EINTR))
			continue;
		if (got <= 0)
			return found;
		record[got] = '\0';
		/* "priority,sequence,time,flags;text", continuation lines follow */
		text = strchr(record, ';');
		if (!text)
			continue;
		text[strcspn(text, "\n")] = '\0';
		/* The module loader's lines carry the module's name too. */
		if (strncmp(text + 1, PREFIX, strlen(PREFIX)) || strstr(text, "taint"))
			continue;
		printf("# log: %s\n", text + 1);
		if (!word || strcasestr(text, word))
			found = true;
	}
}
