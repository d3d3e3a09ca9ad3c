/* SPDX-License-Identifier: GPL-2.0 */
/* One-line files of sysfs, procfs and debugfs, and CPUs as sysfs shows them. */
#ifndef PARACLOCK_FILES_H
#define PARACLOCK_FILES_H

#include <stdbool.h>
#include <stddef.h>

#define MAX_CPUS 256

/* Reads a whole small file, strips trailing newlines. Length, or -errno. */
int file_read(const char *path, char *buf, size_t size);
/* One write(2) of the text, as sysfs wants it. 0, or -errno. */
int file_write(const char *path, const char *text);
bool file_exists(const char *path);

/* Fills in the numbers of the online CPUs and returns how many there are. */
int cpus_online(int *cpus, int max);
bool cpu_is_online(int cpu);
int cpu_set_online(int cpu, bool online);
/* Pins the calling thread. 0, or -errno. */
int pin_to_cpu(int cpu);

#endif
