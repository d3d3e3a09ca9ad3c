// SPDX-License-Identifier: GPL-2.0
/*
 * Migrations while CPUs go offline and come back, the clocksource is changed through sysfs, the
 * driver's mode is written, and the driver itself is unloaded and loaded again, all at the same
 * time and under everybody who reads the clocks: none goes back, nothing is refused that has a
 * reason not to be, and in the end the clock is as good as before.
 *
 * KVM migrates nobody who has been promised an invariant TSC: it takes its word for the TSCs of
 * all CPUs back instead, and gives it again.
 */
#include "lib/updatefixture.h"

#define DEFAULT_SECONDS	20
#define DWELL_NS	30000000
#define SETTLE_MS	20000
#define AFTER		20
#define SWITCH_SECONDS	10

struct doer {
	pthread_t thread;
	const char *what;
	bool (*turn)(struct doer *doer);
	unsigned int turns, refused;
	__u64 seed;
};

static atomic_bool stop;
static const char *load_args;
static atomic_uint migrations;

static __u64 any(struct doer *doer, __u64 n)
{
	doer->seed ^= doer->seed << 13;
	doer->seed ^= doer->seed >> 7;
	doer->seed ^= doer->seed << 17;
	return doer->seed % n;
}

static bool refused(struct doer *doer, const char *what, int err)
{
	if (doer->refused < 3)
		ksft_print_msg("%s, turn %u: %s: expected success, got %s (%d)\n", doer->what,
			       doer->turns, what, strerror(-err), -err);
	return false;
}

static bool migrate(struct doer *doer)
{
	static const char * const more[] = { "", "page=invalid", "invalid_us=50", "notify=double" };
	__u64 tsc, host_ns, khz = LEAST_KHZ + any(doer, MOST_KHZ - LEAST_KHZ + 1);
	__s64 to = TSC_HOME + (__s64)any(doer, 2 * TSC_AWAY) - TSC_AWAY;
	__u32 generation = ruler_generation();

	tsc = ruler_tsc(&host_ns);
	if (!testhost_do("migrate khz=%llu jump=%lld %s", khz, (long long)(to - (__s64)tsc),
			 more[any(doer, ARRAY_SIZE(more))]))
		return refused(doer, testhost_reply(), -EINVAL);
	if (!wait_for_switch(generation, SWITCH_SECONDS))
		return refused(doer, "acknowledgement", -ETIMEDOUT);
	atomic_fetch_add(&migrations, 1);
	sleep_ns(any(doer, DWELL_NS));
	return true;
}

static bool take_back(struct doer *doer)
{
	/* The other doers are slowed down by readers; the host is not. */
	if (!testhost_do("stable off"))
		return refused(doer, testhost_reply(), -EINVAL);
	sleep_ns(any(doer, DWELL_NS));
	if (!testhost_do("stable on"))
		return refused(doer, testhost_reply(), -EINVAL);
	sleep_ns(any(doer, 10 * DWELL_NS));
	return true;
}

static bool hotplug(struct doer *doer)
{
	int cpu = 1 + any(doer, 3), err;

	err = cpu_set_online(cpu, false);
	if (err)
		return refused(doer, "offline", err);
	sleep_ns(any(doer, DWELL_NS));
	err = cpu_set_online(cpu, true);
	if (err)
		return refused(doer, "online", err);
	sleep_ns(any(doer, DWELL_NS));
	return true;
}

/* The driver, the clock in its place, or gone and there again; its modes. */
static bool driver(struct doer *doer)
{
	static const char * const modes[] = { "auto", "page", "msr", "tsc", "auto" };
	const char *mode;
	char other[CS_NAME];
	int err;

	switch (any(doer, 4)) {
	case 0:
		err = paraclock_unload();
		if (err)
			return refused(doer, "unload", err);
		err = module_load(paraclock_ko(), load_args);
		if (err)
			return refused(doer, "load", err);
		break;
	case 1:
		err = cs_other(MODULE_NAME, other, sizeof(other));
		if (!err)
			err = cs_select(other);
		if (err)
			return refused(doer, "selecting another", err);
		sleep_ns(any(doer, DWELL_NS));
		break;
	default:
		mode = modes[any(doer, ARRAY_SIZE(modes))];
		/* Where it cannot be written it is not, and where the host does not let it be. */
		err = file_write(MODE_PARAMETER, mode);
		if (err && err != -EACCES && err != -EOPNOTSUPP && err != -EINVAL)
			return refused(doer, mode, err);
		break;
	}
	err = cs_select(MODULE_NAME);
	if (err)
		return refused(doer, "selecting " MODULE_NAME, err);
	sleep_ns(any(doer, DWELL_NS));
	return true;
}

static void *doer_main(void *arg)
{
	struct doer *doer = arg;

	while (!atomic_load(&stop)) {
		if (!doer->turn(doer))
			doer->refused++;
		doer->turns++;
	}
	return NULL;
}

static bool migrated(void)
{
	__u32 generation = ruler_generation();

	somewhere("");
	return wait_for_switch(generation, SWITCH_SECONDS);
}

/* Out of mode tsc and back, by the administrator's word. */
static bool changed_modes(void)
{
	return !file_write(MODE_PARAMETER, "page") && wait_for_mode("page", SETTLE_MS) &&
	       !file_write(MODE_PARAMETER, "auto") && wait_for_mode("tsc", SETTLE_MS);
}

/* What came of it all is a clock like any other. */
static void result_after(bool kvm)
{
	__s64 worst = 0;
	int i;

	for (i = 0; i < AFTER; i++) {
		struct range before = track_reference(CLOCK_MONOTONIC_RAW), after, step;

		if (!(kvm ? changed_modes() : migrated()))
			break;
		after = track_reference(CLOCK_MONOTONIC_RAW);
		step = range_less(after, before);
		if (range_beyond(step, 0) > worst)
			worst = range_beyond(step, 0);
		sleep_ns(NSEC_PER_SEC / 50);
	}
	ksft_test_result(i == AFTER && worst <= EACH_NS,
			 "then %d of %d %s keep the clock with the host's to %d ns, worst %lld beyond what is known\n",
			 i, AFTER, kvm ? "changes of the mode and back" : "migrations", EACH_NS, worst);
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	bool kvm = !host_get()->hyperv;
	struct doer doers[] = {
		{ .what = kvm ? "the host's word" : "migrations",
		  .turn = kvm ? take_back : migrate, .seed = 88172645463325252ull },
		{ .what = "CPUs", .turn = hotplug, .seed = 88172645463325253ull },
		{ .what = "the driver", .turn = driver, .seed = 88172645463325255ull },
	};
	struct everybody everybody;
	char args[256];
	size_t i;
	int err;

	options_parse(argc, argv, &options);
	ksft_print_header();
	if (kvm)
		require_kvm_update(&options);
	else
		require_update(&options);
	if (!of_driver(&options))
		ksft_exit_skip("it is the driver that is unloaded\n");
	ksft_set_plan(ARRAY_SIZE(doers) + EVERYBODY_RESULTS + 3);
	snprintf(args, sizeof(args), "%s ", paraclock_args());
	load_args = args;

	everybody_start(&everybody, options.self_test);
	for (i = 0; i < ARRAY_SIZE(doers); i++)
		if (pthread_create(&doers[i].thread, NULL, doer_main, &doers[i]))
			ksft_exit_fail_perror("starting a thread");
	sleep_ns(options.seconds * NSEC_PER_SEC);
	atomic_store(&stop, true);
	for (i = 0; i < ARRAY_SIZE(doers); i++) {
		pthread_join(doers[i].thread, NULL);
		ksft_test_result(doers[i].turns && !doers[i].refused,
				 "%s: %u turns, %u refused\n", doers[i].what, doers[i].turns,
				 doers[i].refused);
	}
	everybody_results(&everybody, "together");

	err = file_write(MODE_PARAMETER, "auto");
	if (err && err != -EACCES)
		ksft_print_msg("mode=auto: expected success, got %s (%d)\n", strerror(-err), -err);
	must("heal");
	ksft_test_result(wait_for_mode(expected().mode, SETTLE_MS), "in the end the mode is %s\n",
			 expected().mode);
	result_after(kvm);
	result_still_current(&options);
	ksft_finished();
}
