// SPDX-License-Identifier: GPL-2.0
/*
 * Load, select, refuse to unload while selected, unload, load again: with the parameters
 * and the status file as documented, and with readers that see no step back meanwhile.
 * Every backend with every mode comes to what the host's CPUID lets expect of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/fixture.h"
#include "lib/kmsg.h"
#include "lib/readers.h"

#define DEFAULT_LOOPS	20
#define PARAMETERS	"/sys/module/" MODULE_NAME "/parameters/"
/* How long each turn of the loop reads the new clock, and the old one. */
#define DWELL_NS	(NSEC_PER_SEC / 20)

static const char * const bad_params[] = {
	"backend=xen", "mode=fast", "rating=high", "rating=-1", "rating=600",
	"tsc_reliable=perhaps",
};

static const char * const backends[] = { "auto", "kvm", "hyperv" };
static const char * const modes[] = { "auto", "page", "msr", "tsc" };

/* What the status file counts; nothing of it but the first two is to be seen on an honest host. */
static const char * const counters[] = {
	"updates", "retries", "clamped", "stuck", "guest_stopped", "invalid",
};

static const char * const params[] = { "backend", "mode", "rating", "tsc_reliable" };

static char other[CS_NAME];

static void result_listed(void)
{
	char names[512];

	cs_available(names, sizeof(names));
	ksft_print_msg("available: expected " MODULE_NAME " among them, seen %s\n", names);
	ksft_test_result(cs_is_available(MODULE_NAME), "the clocksource is listed\n");
}

/* The C driver of this backend has registered pages if it is at work, and then they stay. */
static const char *owner_of(const struct prospect *expect)
{
	if (!strcmp(expect->mode, "msr"))
		return "none";
	if (!strcmp(expect->backend, "kvm"))
		return cs_is_available("kvm-clock") ? "adopted" : "own";
	return cs_is_available("hyperv_clocksource_tsc_page") ? "adopted" : "own";
}

static bool status_as_expected(const struct status *status, const struct prospect *expect)
{
	const char *owner = owner_of(expect);
	bool ok;

	ok = status_is(status, "backend", expect->backend);
	ok = status_is(status, "mode", expect->mode) && ok;
	ok = status_is(status, "vdso", expect->vdso) && ok;
	ok = status_is(status, "stable", strcmp(expect->mode, "msr") ? "yes" : "no") && ok;
	return status_is(status, "page_owner", owner) && ok;
}

static void result_status(void)
{
	const char *owner = expected_owner();
	struct prospect expect = expected();
	struct status status = { 0 };
	struct status_page line;
	char value[64] = "";
	bool all = true;
	int err = status_read(&status);
	size_t i;

	if (err)
		ksft_print_msg("%s: %s (%d)\n", STATUS_PATH, strerror(-err), -err);
	else
		status_print(&status);
	ksft_test_result(!err && status_as_expected(&status, &expect),
			 "status: backend %s, mode %s, vDSO %s\n", expect.backend, expect.mode,
			 expect.vdso);

	for (i = 0; i < ARRAY_SIZE(counters); i++) {
		if (status_get(&status, counters[i], value, sizeof(value)) &&
		    (i < 2 || !strcmp(value, "0") ||
		     /* Two CPUs that read the counter may come in the other order. */
		     (!expects_page() && !strcmp(counters[i], "clamped"))))
			continue;
		ksft_print_msg("status: %s: expected %s, seen '%s'\n", counters[i],
			       i < 2 ? "a number" : "0", value);
		all = false;
	}
	ksft_test_result(all, "status: every event is counted, and none was amiss\n");

	ksft_test_result(status_page(&status, 0, &line) == expects_page(),
			 "status: %s page is named\n", expects_page() ? "a" : "no");

	status_get(&status, "page_owner", value, sizeof(value));
	if (!owner) {
		ksft_test_result_skip("status: page_owner %s; no PARACLOCK_OWNER\n", value);
		return;
	}
	ksft_test_result(!err && status_is(&status, "page_owner", owner),
			 "status: page_owner %s\n", owner);
}

static void result_parameters(void)
{
	char path[128], value[64];
	bool all = true;
	size_t i;
	int got;

	for (i = 0; i < ARRAY_SIZE(params); i++) {
		snprintf(path, sizeof(path), PARAMETERS "%s", params[i]);
		got = file_read(path, value, sizeof(value));
		if (got > 0) {
			ksft_print_msg("parameter %s=%s\n", params[i], value);
			continue;
		}
		ksft_print_msg("%s: expected a value, got %s (%d)\n", path,
			       got ? strerror(-got) : "none", -got);
		all = false;
	}
	ksft_test_result(all, "all parameters can be read\n");
}

/* An open file is a user of the module: what it calls has to be there when it is closed. */
static void result_status_held(const char *other)
{
	int fd = open(STATUS_PATH, O_RDONLY | O_CLOEXEC);
	char byte;
	int err;

	err = cs_select(other);
	if (!err && fd >= 0)
		err = module_unload(MODULE_NAME);
	if (fd < 0)
		ksft_print_msg("%s: %s\n", STATUS_PATH, strerror(errno));
	else if (err != -EBUSY && err != -EWOULDBLOCK)
		ksft_print_msg("unload: expected EBUSY or EWOULDBLOCK, got %s (%d)\n",
			       err ? strerror(-err) : "success", -err);
	ksft_test_result(fd >= 0 && (err == -EBUSY || err == -EWOULDBLOCK) &&
			 pread(fd, &byte, 1, 0) == 1,
			 "unload while the status file is open is refused\n");
	if (fd >= 0)
		close(fd);
}

/* Refused while it is the current clocksource, and none the worse for the attempt. */
static void result_busy(void)
{
	int err = module_unload(MODULE_NAME);
	__u64 before, after;

	if (err != -EBUSY && err != -EWOULDBLOCK)
		ksft_print_msg("unload: expected EBUSY (%d) or EWOULDBLOCK (%d), got %s (%d)\n",
			       EBUSY, EWOULDBLOCK, err ? strerror(-err) : "success", -err);
	ksft_test_result(err == -EBUSY || err == -EWOULDBLOCK,
			 "unload while selected is refused\n");

	before = vdso_ns(CLOCK_MONOTONIC);
	sleep_ns(DWELL_NS);
	after = vdso_ns(CLOCK_MONOTONIC);
	if (after - before < DWELL_NS)
		ksft_print_msg("slept %lld ns, CLOCK_MONOTONIC went on by %llu ns\n",
			       DWELL_NS, after - before);
	ksft_test_result(cs_is_current(MODULE_NAME) && after - before >= DWELL_NS,
			 "it is still selected, and time goes on\n");
}

static void result_bad_params(void)
{
	size_t i;
	int err;

	for (i = 0; i < ARRAY_SIZE(bad_params); i++) {
		err = paraclock_load(bad_params[i]);
		ksft_test_result(errno_is(bad_params[i], err, EINVAL) &&
				 !module_is_loaded(MODULE_NAME) && !cs_is_available(MODULE_NAME),
				 "load with %s is refused with EINVAL\n", bad_params[i]);
		if (!err)
			paraclock_unload();
	}
}

static bool loaded_as_expected(const struct prospect *expect)
{
	struct status status = { 0 };
	char rating[16];
	bool ok;

	snprintf(rating, sizeof(rating), "%d", expect->rating);
	ok = errno_is("selecting it", cs_select(MODULE_NAME), 0);
	ok = errno_is(STATUS_PATH, status_read(&status), 0) && ok;
	ok = status_as_expected(&status, expect) && ok;
	return status_is(&status, "rating", rating) && ok;
}

static bool refused_as_expected(const struct prospect *expect, int log)
{
	bool ok = !module_is_loaded(MODULE_NAME) && !cs_is_available(MODULE_NAME);

	if (!ok)
		ksft_print_msg("the module or its clocksource has stayed\n");
	if (kmsg_find(log, expect->log))
		return ok;
	ksft_print_msg("log: expected a line with '%s'\n", expect->log ? expect->log : "");
	return false;
}

/* One backend with one mode, whatever the guest's own parameters are. */
static void result_combination(const char *backend, const char *mode)
{
	struct prospect expect = host_prospect(backend, mode);
	int log = kmsg_open(), err;
	char params[64];
	bool ok;

	snprintf(params, sizeof(params), "backend=%s mode=%s", backend, mode);
	err = module_load(paraclock_ko(), params);
	ok = errno_is(params, err, expect.err);
	if (ok)
		ok = expect.err ? refused_as_expected(&expect, log) : loaded_as_expected(&expect);
	if (!err)
		ok = errno_is("unload", paraclock_unload(), 0) && ok;
	if (expect.err)
		ksft_test_result(ok, "%s: refused with %s, and the log says why\n", params,
				 expect.err == EINVAL ? "EINVAL" :
				 expect.err == ENODEV ? "ENODEV" : "EOPNOTSUPP");
	else
		ksft_test_result(ok, "%s: backend %s, mode %s, rating %d\n", params,
				 expect.backend, expect.mode, expect.rating);
	if (log >= 0)
		close(log);
}

static void result_combinations(void)
{
	size_t b, m;

	for (b = 0; b < ARRAY_SIZE(backends); b++)
		for (m = 0; m < ARRAY_SIZE(modes); m++)
			result_combination(backends[b], modes[m]);
}

/* The highest that may be asked for is above all that the C drivers have. */
static void result_high_rating(void)
{
	struct status status = { 0 };
	bool ok;
	int err;

	cs_select_by_rating();
	err = paraclock_load("rating=599");
	ok = errno_is("load with rating=599", err, 0) && !status_read(&status) &&
	     status_is(&status, "rating", "599");
	if (ok && !cs_is_current(MODULE_NAME)) {
		ksft_print_msg("not selected in spite of rating 599\n");
		ok = false;
	}
	ksft_test_result(ok, "rating=599: chosen by rating\n");
	errno_is("unload", paraclock_unload(), 0);
}

static void result_low_rating(void)
{
	struct status status = { 0 };
	char value[64] = "";
	bool ok;
	int err;

	cs_select_by_rating();
	err = paraclock_load("rating=1");
	ok = errno_is("load with rating=1", err, 0);
	if (ok && cs_is_current(MODULE_NAME)) {
		ksft_print_msg("selected in spite of rating 1\n");
		ok = false;
	}
	file_read(PARAMETERS "rating", value, sizeof(value));
	if (strcmp(value, "1")) {
		ksft_print_msg("parameter rating: expected 1, seen %s\n", value);
		ok = false;
	}
	ok = ok && !status_read(&status) && status_is(&status, "rating", "1");
	if (ok)
		ok = errno_is("selecting it all the same", cs_select(MODULE_NAME), 0);
	ksft_test_result(ok, "rating=1: listed, not chosen by rating, chosen by name\n");
	errno_is("unload", paraclock_unload(), 0);
}

/* One turn: load, select, read, another clocksource, unload. */
static bool reload(unsigned int turn)
{
	char what[64];

	snprintf(what, sizeof(what), "turn %u: load", turn);
	if (!errno_is(what, paraclock_load(""), 0))
		return false;
	snprintf(what, sizeof(what), "turn %u: select", turn);
	if (!errno_is(what, cs_select(MODULE_NAME), 0))
		return false;
	sleep_ns(DWELL_NS);
	snprintf(what, sizeof(what), "turn %u: select %s", turn, other);
	if (!errno_is(what, cs_select(other), 0))
		return false;
	snprintf(what, sizeof(what), "turn %u: unload", turn);
	if (!errno_is(what, module_unload(MODULE_NAME), 0))
		return false;
	sleep_ns(DWELL_NS);
	return true;
}

static void result_reload(const struct options *options)
{
	struct readers *readers;
	struct reader_count count;
	unsigned int turn;
	bool ok = true;

	readers = readers_start(READERS_VDSO | READERS_SYSCALL, options->self_test);
	if (!readers)
		ksft_exit_fail_perror("starting the readers");
	for (turn = 1; turn <= options->loops && ok; turn++) {
		ok = reload(turn);
		if (turn % 5 == 0)
			ksft_print_msg("%u of %u turns, %llu readings\n", turn, options->loops,
				       readers_count(readers, -1, -1).reads);
	}
	readers_stop(readers);

	count = readers_count(readers, -1, -1);
	ksft_test_result(ok, "loaded, selected and unloaded %u times under readers\n",
			 options->loops);
	ksft_print_msg("%llu readings, expected 0 backward, seen %llu, worst %llu ns\n",
		       count.reads, count.backward, count.worst_ns);
	ksft_test_result(!count.backward, "no reader saw a step back meanwhile\n");
	ksft_test_result(readers_least(readers, READER_VDSO) &&
			 readers_least(readers, READER_SYSCALL),
			 "every CPU has read by the vDSO and by the system call\n");
	readers_free(readers);
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_LOOPS };
	bool by_rating;
	int err, log;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_host_clock();
	if (clock_init())
		ksft_exit_skip("no vDSO in this process\n");
	err = paraclock_unload();
	if (err)
		ksft_exit_fail_msg("unloading the driver: %s (%d)\n", strerror(-err), -err);
	if (cs_other(MODULE_NAME, other, sizeof(other)))
		ksft_exit_fail_msg("no other clocksource to go back to\n");
	ksft_set_plan(15 + ARRAY_SIZE(bad_params) +
		      ARRAY_SIZE(backends) * ARRAY_SIZE(modes) + 5);

	log = kmsg_open();
	cs_select_by_rating();
	err = paraclock_load("");
	ksft_test_result(errno_is("load", err, 0), "the module loads\n");
	if (err)
		ksft_exit_fail_msg("nothing to test without it\n");
	ksft_test_result(kmsg_find(log, NULL), "the log tells of it\n");
	result_listed();
	/* Reading the counter is the last resort: the C driver's page comes before it. */
	by_rating = expects_page() || !cs_is_available("hyperv_clocksource_tsc_page");
	ksft_test_result(cs_is_current(MODULE_NAME) == by_rating, "its rating %s it\n",
			 by_rating ? "selects" : "does not select");

	err = cs_select(other);
	ksft_test_result(errno_is("selecting another", err, 0), "%s can be selected\n", other);
	err = cs_select(MODULE_NAME);
	ksft_test_result(errno_is("selecting " MODULE_NAME, err, 0),
			 MODULE_NAME " can be selected\n");
	result_status();
	result_parameters();
	result_busy();
	result_status_held(other);

	err = paraclock_unload();
	ksft_test_result(errno_is("unload", err, 0) && !cs_is_available(MODULE_NAME),
			 "with %s selected it unloads, and is no longer listed\n", other);

	result_bad_params();
	result_combinations();
	result_low_rating();
	result_high_rating();
	result_reload(&options);
	ksft_finished();
}
