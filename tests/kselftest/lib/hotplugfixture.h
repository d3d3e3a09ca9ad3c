/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tests of CPU hotplug have in common: TSC_ADJUST of each CPU, and what the driver says of
 * the TSCs. In a header, as fixture.h.
 */
#ifndef PARACLOCK_HOTPLUGFIXTURE_H
#define PARACLOCK_HOTPLUGFIXTURE_H

#include "updatefixture.h"
#include "kmsg.h"
#include "readers.h"

#define RELIABLE_PARAMETER	"/sys/module/" MODULE_NAME "/parameters/tsc_reliable"
/* The look in turn takes a second for each CPU; the mode has its hold-off. */
#define LOOK_MS			15000
#define MODE_MS			20000

static inline __s64 adjust_of(int cpu)
{
	return (__s64)rdmsr(cpu, MSR_IA32_TSC_ADJUST);
}

static inline bool adjust_is(int cpu, __s64 expected)
{
	__s64 seen = adjust_of(cpu);

	if (seen != expected)
		ksft_print_msg("cpu%d: TSC_ADJUST expected %lld, seen %lld\n", cpu, expected, seen);
	return seen == expected;
}

/* Text of one line of the status file; "" where there is none. */
static inline const char *status_text(const char *key)
{
	static struct status status;
	static char value[256];

	if (status_read(&status) || !status_get(&status, key, value, sizeof(value)))
		return "";
	return value;
}

/* Waits for a line of the status file to begin with a text. */
static inline bool wait_for_status(const char *key, const char *expected, unsigned int ms)
{
	unsigned int waited;

	for (waited = 0; strncmp(status_text(key), expected, strlen(expected)); waited++) {
		if (waited >= ms) {
			ksft_print_msg("status: %s: expected %s, seen %s\n", key, expected,
				       status_text(key));
			return false;
		}
		usleep(1000);
	}
	return true;
}

/* What stands in the status file's line of a CPU. */
static inline bool driver_says(int cpu, const char *text)
{
	char key[16];

	snprintf(key, sizeof(key), "tsc_cpu%d", cpu);
	if (strstr(status_text(key), text))
		return true;
	ksft_print_msg("cpu%d: expected '%s', the status file says: %s\n", cpu, text,
		       status_text(key));
	return false;
}

static inline bool is_mode(const char *expected)
{
	bool is = wait_for_status("mode", expected, MODE_MS);

	if (!is)
		ksft_print_msg("status: why: %s\n", status_text("why"));
	return is;
}

/* Where the clock goes when TSCs are apart: to one that needs none, if there is one. */
static inline const char *apart_mode(void)
{
	return !strcmp(expected().backend, "hyperv") ? "msr" : "page";
}

/* Who reads the clock now, on all CPUs, by the vDSO and by system calls, sees no step back. */
static inline bool reads_well(unsigned int ms)
{
	struct readers *readers = readers_start(READERS_VDSO | READERS_SYSCALL, false);
	struct reader_count count;

	if (!readers) {
		ksft_print_msg("the readers: %s (%d)\n", strerror(errno), errno);
		return false;
	}
	usleep(ms * 1000);
	readers_stop(readers);
	count = readers_count(readers, -1, -1);
	readers_free(readers);
	if (!count.reads || count.backward)
		ksft_print_msg("%llu readings, expected 0 backward, seen %llu, worst %llu ns\n",
			       count.reads, count.backward, count.worst_ns);
	return count.reads && !count.backward;
}

static inline bool logged(int kmsg, const char *word, bool expected)
{
	bool found = kmsg_find(kmsg, word);

	if (found != expected)
		ksft_print_msg("log: '%s' expected %s, and was %s\n", word,
			       expected ? "once" : "no more", found ? "found" : "not found");
	return found == expected;
}

static inline bool switch_cpu(int cpu, bool online)
{
	int err = cpu_set_online(cpu, online);

	if (err)
		ksft_print_msg("cpu%d %s: %s (%d)\n", cpu, online ? "online" : "offline",
			       strerror(-err), -err);
	return !err;
}

/*
 * Has a CPU started until the check on the way up has come to a result: two vCPUs of a busy host may
 * not run at once for as long as it takes.
 */
static inline bool start_checked(int cpu)
{
	char key[16];
	int attempt;

	snprintf(key, sizeof(key), "tsc_cpu%d", cpu);
	for (attempt = 0; attempt < 50; attempt++) {
		if (cpu_is_online(cpu) && !switch_cpu(cpu, false))
			return false;
		if (!switch_cpu(cpu, true))
			return false;
		if (!strstr(status_text(key), "checked"))
			return true;
	}
	ksft_print_msg("cpu%d: no result in %d attempts: %s\n", cpu, attempt, status_text(key));
	return false;
}

/*
 * Undoes what a test has left that was ended before its time, and loads the driver anew: it has
 * verdicts about that.
 */
static inline bool load_anew(const char *more);
static inline bool begin_honest(int cpus)
{
	bool has_adjust = strstr(status_text("tsc_cpu0"), "set_to=");
	int cpu;

	if (paraclock_unload())
		return false;
	must("heal");
	for (cpu = 0; cpu < cpus; cpu++) {
		if (!cpu_is_online(cpu) && !switch_cpu(cpu, true))
			return false;
		if (has_adjust)
			must("tsc_adjust vcpu=%d value=0", cpu);
	}
	return load_anew("");
}

/*
 * The same until it is in step: three runs of a busy host may leave more than the check passes, and
 * the CPU is to be started anew then.
 */
static inline bool start_in_step(int cpu)
{
	char key[16];
	int attempt;

	snprintf(key, sizeof(key), "tsc_cpu%d", cpu);
	for (attempt = 0; attempt < 5; attempt++) {
		if (!start_checked(cpu))
			return false;
		if (strstr(status_text(key), "in step"))
			return true;
	}
	ksft_print_msg("cpu%d: not in step in %d attempts: %s\n", cpu, attempt, status_text(key));
	return false;
}

/* Loads the driver anew, and selects it. */
static inline bool load_anew(const char *more)
{
	int err = paraclock_unload();

	if (!err)
		err = paraclock_load(more);
	if (!err)
		err = cs_select(MODULE_NAME);
	if (err)
		ksft_print_msg("loading anew %s: %s (%d)\n", more, strerror(-err), -err);
	return !err;
}

static inline bool set_reliable(const char *value)
{
	int err = file_write(RELIABLE_PARAMETER, value);

	if (err)
		ksft_print_msg("tsc_reliable=%s: %s (%d)\n", value, strerror(-err), -err);
	return !err;
}

#endif
