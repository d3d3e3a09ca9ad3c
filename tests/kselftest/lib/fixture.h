/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What has to hold before a test begins: told apart are a machine that cannot run it
 * (SKIP) and a driver that does not work (FAIL).
 *
 * In a header, as these report through kselftest.h, which counts per translation unit.
 */
#ifndef PARACLOCK_FIXTURE_H
#define PARACLOCK_FIXTURE_H

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "kselftest.h"
#include "clock.h"
#include "clocksource.h"
#include "files.h"
#include "module.h"
#include "msr.h"
#include "options.h"
#include "status.h"

/*
 * $PARACLOCK_OWNER, set by whoever boots the guest and so knows what to expect: "adopted",
 * "own", or "none" for a guest without a KVM clock. NULL if not set. Whoever sets it also
 * answers for the kernel: what the tests cannot do without is then a failure, not a skip.
 */
static inline const char *expected_owner(void)
{
	const char *owner = getenv("PARACLOCK_OWNER");

	return owner && *owner ? owner : NULL;
}

/* Ends the test unless this machine has a KVM clock and the module is there. */
static inline void require_kvm_clock(void)
{
	const char *owner = expected_owner();
	bool none = owner && !strcmp(owner, "none");

	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (!kvm_clock_msr()) {
		if (owner && !none)
			ksft_exit_fail_msg("owner %s expected, but CPUID shows no KVM clock\n",
					   owner);
		ksft_exit_skip("CPUID shows no KVM clock\n");
	}
	if (none)
		ksft_exit_fail_msg("no KVM clock expected, but CPUID shows one\n");
	if (!file_exists(paraclock_ko())) {
		if (owner)
			ksft_exit_fail_msg("no module %s\n", paraclock_ko());
		ksft_exit_skip("no module %s\n", paraclock_ko());
	}
	debugfs_mount();
}

/* Loads and selects the driver, or ends the test. */
static inline void require_paraclock(void)
{
	int err;

	require_kvm_clock();
	if (!module_is_loaded(MODULE_NAME)) {
		err = module_load(paraclock_ko(), "");
		if (err)
			ksft_exit_fail_msg("loading %s: expected success, got %s (%d)\n",
					   paraclock_ko(), strerror(-err), -err);
	}
	err = cs_select(MODULE_NAME);
	if (err)
		ksft_exit_fail_msg("selecting " MODULE_NAME ": expected success, got %s (%d)\n",
				   strerror(-err), -err);
}

/* Finds the vDSO, and brings up the clocksource that the command line asks for. */
static inline void require_clock(const struct options *options)
{
	int err;

	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	if (options_any(options))
		return;
	if (!strcmp(options->clocksource, MODULE_NAME)) {
		require_paraclock();
		return;
	}
	if (!cs_is_available(options->clocksource))
		ksft_exit_skip("no clocksource %s\n", options->clocksource);
	err = cs_select(options->clocksource);
	if (err)
		ksft_exit_fail_msg("selecting %s: expected success, got %s (%d)\n",
				   options->clocksource, strerror(-err), -err);
}

/* A result: the clocksource that was tested is still the current one. */
static inline void result_still_current(const struct options *options)
{
	char now[CS_NAME];

	cs_current(now, sizeof(now));
	if (options_any(options)) {
		ksft_test_result_pass("current clocksource: %s\n", now);
		return;
	}
	if (strcmp(now, options->clocksource))
		ksft_print_msg("current clocksource: expected %s, seen %s\n",
			       options->clocksource, now);
	ksft_test_result(!strcmp(now, options->clocksource),
			 "%s is still the current clocksource\n", options->clocksource);
}

/* Prints a key's value and says whether it is the one expected. */
static inline bool status_is(const struct status *status, const char *key, const char *expected)
{
	char value[64];

	if (!status_get(status, key, value, sizeof(value))) {
		ksft_print_msg("status: no line '%s:'\n", key);
		return false;
	}
	if (strcmp(value, expected)) {
		ksft_print_msg("status: %s: expected %s, seen %s\n", key, expected, value);
		return false;
	}
	return true;
}

/* Prints what errno was expected and what came, and says whether they are the same. */
static inline bool errno_is(const char *what, int err, int expected)
{
	if (err == -expected)
		return true;
	ksft_print_msg("%s: expected %s (%d), got %s (%d)\n", what,
		       expected ? strerror(expected) : "success", expected,
		       err ? strerror(-err) : "success", -err);
	return false;
}

#endif
