// SPDX-License-Identifier: GPL-2.0
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"

int file_read(const char *path, char *buf, size_t size)
{
	size_t len = 0;
	ssize_t got;
	int fd;

	buf[0] = '\0';
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	while (len < size - 1) {
		got = read(fd, buf + len, size - 1 - len);
		if (got < 0) {
			int err = -errno;

			close(fd);
			buf[0] = '\0';
			return err;
		}
		if (!got)
			break;
		len += got;
	}
	close(fd);

	while (len && (buf[len - 1] == '\n' || buf[len - 1] == ' '))
		len--;
	buf[len] = '\0';
	return (int)len;
}

int file_write(const char *path, const char *text)
{
	ssize_t len = (ssize_t)strlen(text);
	ssize_t put;
	int fd, err;

	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;

	put = write(fd, text, len);
	err = put < 0 ? -errno : put == len ? 0 : -EIO;
	close(fd);
	return err;
}

bool file_exists(const char *path)
{
	return access(path, F_OK) == 0;
}

int cpus_online(int *cpus, int max)
{
	char buf[1024], *pos = buf;
	int n = 0;

	if (file_read("/sys/devices/system/cpu/online", buf, sizeof(buf)) <= 0) {
		cpus[0] = 0;
		return 1;
	}

	while (*pos && n < max) {
		long first = strtol(pos, &pos, 10);
		long last = first;

		if (*pos == '-')
			last = strtol(pos + 1, &pos, 10);
		for (; first <= last && n < max; first++)
			cpus[n++] = (int)first;
		if (*pos != ',')
			break;
		pos++;
	}
	return n;
}

bool cpu_is_online(int cpu)
{
	int cpus[MAX_CPUS];
	int n = cpus_online(cpus, MAX_CPUS);

	while (n--)
		if (cpus[n] == cpu)
			return true;
	return false;
}

int cpu_set_online(int cpu, bool online)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	return file_write(path, online ? "1" : "0");
}

int pin_to_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}
