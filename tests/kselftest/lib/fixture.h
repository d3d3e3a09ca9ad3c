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
#include "host.h"
#include "module.h"
#include "msr.h"
#include "options.h"
#include "status.h"

/*
 * $PARACLOCK_BACKEND, _MODE, _VDSO, _OWNER: set by whoever boots the guest, and so knows what
 * the driver has to be found at, in the words of its status file; backend "none" for a guest
 * without a clock. NULL if not set. Whoever sets them also answers for the kernel: what the
 * tests cannot do without is then a failure, not a skip.
 */
static inline const char *told(const char *name)
{
	const char *value = getenv(name);

	return value && *value ? value : NULL;
}

static inline bool guest_is_known(void)
{
	return told("PARACLOCK_BACKEND");
}

/* What a load with $PARACLOCK_ARGS has to come to: as told, else as this host's CPUID says. */
static inline struct prospect expected(void)
{
	struct prospect expect = host_prospect_args(paraclock_args());

	if (guest_is_known()) {
		expect.backend = told("PARACLOCK_BACKEND");
		expect.mode = told("PARACLOCK_MODE");
		expect.vdso = told("PARACLOCK_VDSO");
	}
	if (expect.backend && expect.mode && expect.vdso)
		return expect;
	if (guest_is_known())
		ksft_exit_fail_msg("PARACLOCK_BACKEND is set, and _MODE or _VDSO is not\n");
	ksft_exit_skip("CPUID shows no clock of a hypervisor\n");
}

/* The TSC alone is read, and not a page that is there as well. */
static inline bool expects_tsc(void)
{
	return !strcmp(expected().mode, "tsc");
}

/* There is a page, whether it is read or not. */
static inline bool expects_page(void)
{
	return strcmp(expected().mode, "msr");
}

static inline bool expects_vdso(void)
{
	return strcmp(expected().vdso, "none");
}

/* Whose page it has to be; NULL where nobody has said. */
static inline const char *expected_owner(void)
{
	return told("PARACLOCK_OWNER");
}

static inline bool no_clock_expected(void)
{
	return guest_is_known() && !strcmp(told("PARACLOCK_BACKEND"), "none");
}

static inline void require_module(void)
{
	if (file_exists(paraclock_ko()))
		return;
	if (guest_is_known())
		ksft_exit_fail_msg("no module %s\n", paraclock_ko());
	ksft_exit_skip("no module %s\n", paraclock_ko());
}

/* Ends the test unless this machine has a clock and the module is there. */
static inline void require_host_clock(void)
{
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (!host_has_clock()) {
		if (guest_is_known() && !no_clock_expected())
			ksft_exit_fail_msg("backend %s expected, but CPUID shows no clock\n",
					   told("PARACLOCK_BACKEND"));
		ksft_exit_skip("CPUID shows no clock of a hypervisor\n");
	}
	if (no_clock_expected())
		ksft_exit_fail_msg("no clock expected, but CPUID shows one\n");
	require_module();
	debugfs_mount();
}

/* Loads and selects the driver, or ends the test. */
static inline void require_paraclock(void)
{
	int err;

	require_host_clock();
	if (!module_is_loaded(MODULE_NAME)) {
		err = paraclock_load("");
		if (err)
			ksft_exit_fail_msg("loading %s %s: expected success, got %s (%d)\n",
					   paraclock_ko(), paraclock_args(), strerror(-err), -err);
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
