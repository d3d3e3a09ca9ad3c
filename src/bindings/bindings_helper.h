/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the driver uses of the kernel and the kernel crate's bindings lack.
 *
 * For bindgen alone; the names that are taken from here stand in the file "parameters".
 */
#include <linux/clocksource.h>
#include <linux/notifier.h>
#include <linux/reboot.h>
#include <asm/mshyperv.h>
#include <asm/pvclock.h>
#include <clocksource/hyperv_timer.h>

#include "../helpers.h"
