/* SPDX-License-Identifier: GPL-2.0 */
/* Modules, through the system calls themselves: the error number is what is tested. */
#ifndef PARACLOCK_MODULE_H
#define PARACLOCK_MODULE_H

#include <stdbool.h>

#define MODULE_NAME "paraclock"
#define MODULE_DIR "/lib/modules"

/* 0, or -errno. */
int module_load(const char *path, const char *params);
/* Does not wait for the module's users. 0, or -errno. */
int module_unload(const char *name);
bool module_is_loaded(const char *name);

/* $PARACLOCK_KO, or where the initramfs has it. */
const char *paraclock_ko(void);
/* $PARACLOCK_ARGS: the parameters that the one who boots the guest wants; "" if none. */
const char *paraclock_args(void);
/* Loads it with these and then some more, of which the last one counts. 0, or -errno. */
int paraclock_load(const char *more);
/* Selects another clocksource if need be, and unloads. 0 if not loaded, or -errno. */
int paraclock_unload(void);

#endif
