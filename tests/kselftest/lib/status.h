/* SPDX-License-Identifier: GPL-2.0 */
/* The driver's status file in debugfs. */
#ifndef PARACLOCK_STATUS_H
#define PARACLOCK_STATUS_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>

#define DEBUGFS "/sys/kernel/debug"
#define STATUS_PATH DEBUGFS "/paraclock/status"

struct status {
	char text[16384];
};

struct status_page {
	char owner[16];
	__u64 gpa;
};

/* Mounts debugfs where it is not. 0, or -errno. */
int debugfs_mount(void);
/* Takes the status file as it is now. 0, or -errno. */
int status_read(struct status *status);
/* The value of a line "key: value". False if there is no such line. */
bool status_get(const struct status *status, const char *key, char *value, size_t size);
/* The line of the page that this CPU reads: its own, or the one of all. False if there is none. */
bool status_page(const struct status *status, int cpu, struct status_page *line);
/* Prints every line as a diagnostic. */
void status_print(const struct status *status);

#endif
