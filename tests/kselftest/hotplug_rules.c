// SPDX-License-Identifier: GPL-2.0
/*
 * Each rule for TSC_ADJUST and for the TSCs of CPUs that come up, by the fault that calls for it, on
 * two sockets: CPUs 0 and 1, and CPUs 2 and 3. What the registers hold is read back by
 * their MSRs, what was checked, decided and logged is the driver's to say.
 *
 * Readers there are where a CPU is left out of step: the clock is in a mode then that does not need it. What
 * they see while CPUs come and go is for the test `hotplug`.
 */
#include <stdlib.h>

#include "lib/hotplugfixture.h"

/* By what a socket is put out of step, and within what the check puts it right, 2 us, in cycles. */
#define OFF		10000
#define RIGHT		4000
/* Out of step by what an interrupt's way does not hide: 25 ms and more. */
#define FAR		100000000
#define FOREIGN		12345
#define RANDOM_CYCLES	60000
/* Most that a TSC's drift may be on this host: half as fast. */
#define DRIFT_PPB	(-500000000)
/* For how long the clock is read with a CPU out of step. */
#define READ_MS		500
/* So many starts that pass. */
#define STARTS		5
/* A TSC that moves to and fro does so while both CPUs look, or it does not. */
#define ATTEMPTS	40

/* What the guest was made with. */
static bool with_adjust, kernel_verifies, host_vouches;

static atomic_bool stop_moving;
static int moved_cpu;

static long long checks(void)
{
	return status_number("tsc_checks");
}

/* Both CPUs of the second socket go, and come back. */
static bool restart_second_socket(void)
{
	return switch_cpu(3, false) && switch_cpu(2, false) && switch_cpu(2, true) &&
	       switch_cpu(3, true);
}

static bool checks_rose(long long from, long long least, long long most)
{
	long long now = checks() - from;

	if (now < least || now > most)
		ksft_print_msg("runs of the check: expected %lld to %lld, seen %lld\n", least, most,
			       now);
	return now >= least && now <= most;
}

static bool number_is(const char *key, long long least)
{
	long long now = status_number(key);

	if (now < least)
		ksft_print_msg("status: %s: expected %lld or more, seen %lld\n", key, least, now);
	return now >= least;
}

/* Rule boot-cpu-to-zero, at load. */
static void boot_cpu_to_zero(void)
{
	bool right = false;
	int kmsg, tries;

	if (!with_adjust) {
		ksft_test_result_skip("boot-cpu-to-zero: no TSC_ADJUST\n");
		return;
	}
	/* Where the kernel verifies, it may be faster. */
	for (tries = 0; tries < 20 && !right; tries++) {
		if (paraclock_unload())
			break;
		kmsg = kmsg_open();
		must("tsc_adjust vcpu=0 value=%d", FOREIGN);
		if (paraclock_load("") || cs_select(MODULE_NAME))
			break;
		right = kmsg_find(kmsg, "CPU0: TSC_ADJUST was 12345 on the boot CPU, set to 0");
		close(kmsg);
		if (!kernel_verifies)
			break;
	}
	ksft_test_result(right && adjust_is(0, 0) && number_is("tsc_adjust_writes", 1) &&
			 is_mode("tsc"),
			 "boot-cpu-to-zero: %d, at load, is set to 0 and logged\n", FOREIGN);
}

/* Rule sibling-to-socket, at load and when the CPU starts. */
static void sibling_to_socket(void)
{
	long long before;
	bool right;
	int kmsg;

	if (!with_adjust) {
		ksft_test_result_skip("sibling-to-socket, at load: no TSC_ADJUST\n");
		ksft_test_result_skip("sibling-to-socket, at start: no TSC_ADJUST\n");
		return;
	}
	right = !paraclock_unload();
	kmsg = kmsg_open();
	must("tsc_adjust vcpu=1 value=%d", FOREIGN);
	right = right && load_anew("") && adjust_is(1, 0) && is_mode("tsc");
	/* Or the kernel was faster. */
	if (!kernel_verifies)
		right = right && logged(kmsg, "CPU1: TSC_ADJUST 12345 differs from 0", true);
	ksft_test_result(right, "sibling-to-socket: at load CPU 1 is set to what CPU 0 has\n");
	close(kmsg);

	right = load_anew("") && is_mode("tsc");
	kmsg = kmsg_open();
	before = checks();
	right = right && switch_cpu(1, false);
	must("adjust_on_start vcpu=1 value=%d", FOREIGN);
	right = right && switch_cpu(1, true) && adjust_is(1, 0) && checks_rose(before, 0, 0) &&
		logged(kmsg, "CPU1: TSC_ADJUST", true);
	/* Once. Not before the look has come, until when the value may be the kernel's. */
	usleep(1500000);
	right = right && switch_cpu(1, false) && switch_cpu(1, true) && adjust_is(1, 0) &&
		logged(kmsg, "CPU1: TSC_ADJUST", false) && is_mode("tsc");
	must("adjust_on_start vcpu=1 value=honest");
	right = right && switch_cpu(1, false) && switch_cpu(1, true) && adjust_is(1, 0);
	ksft_test_result(right, "sibling-to-socket: when it starts, unchecked, logged once\n");
	close(kmsg);
}

/* A CPU that comes up and passes takes nothing from those that read the clock. */
static void passing_starts(void)
{
	long long left, hold, before;
	int starts = 0, attempt;
	bool right = true;

	for (attempt = 0; right && starts < STARTS && attempt < 10 * STARTS; attempt++) {
		right = is_mode("tsc");
		left = status_number("left_tsc");
		hold = status_number("hold_off_ms");
		before = checks();
		right = right && restart_second_socket();
		/* On a busy host two of them may not have run at once, or not the first time. */
		if (!right || checks() - before != (with_adjust ? 1 : 2) ||
		    strstr(status_text("tsc_cpu2"), "checked") ||
		    strstr(status_text("tsc_cpu3"), "checked")) {
			right = right && wait_for_status("tsc_in_step", "yes", LOOK_MS);
			continue;
		}
		starts++;
		/* Four looks of the poll. */
		usleep(100000);
		if (status_number("left_tsc") != left || status_number("hold_off_ms") != hold) {
			ksft_print_msg("start %d: left_tsc expected %lld, seen %lld; hold_off_ms %lld, %lld\n",
				       starts, left, status_number("left_tsc"), hold,
				       status_number("hold_off_ms"));
			right = false;
		}
	}
	ksft_test_result(right && starts == STARTS,
			 "mode tsc stays through %d starts of a CPU that passes, of %d\n", starts,
			 attempt);
}

/* Rule socket-into-step: moved by what it is off, its sibling with it, and back again. */
static void socket_into_step(void)
{
	long long before;
	__s64 moved = 0;
	bool right;
	int kmsg;

	right = load_anew("tsc_reliable=never") && is_mode("tsc");
	kmsg = kmsg_open();
	before = checks();
	right = right && switch_cpu(3, false) && start_checked(2) && switch_cpu(3, true) &&
		checks_rose(before, 1, 200);
	if (with_adjust)
		right = right && llabs(adjust_of(2)) <= RIGHT;
	ksft_test_result(right && is_mode("tsc"), "a socket in step is checked, and left alone\n");
	passing_starts();

	right = switch_cpu(3, false) && switch_cpu(2, false);
	must("tsc_offset socket=1 cycles=%d", OFF);
	right = right && (with_adjust ? start_in_step(2) : start_checked(2));
	if (with_adjust) {
		moved = adjust_of(2);
		if (llabs(moved + OFF) > RIGHT)
			ksft_print_msg("cpu2: TSC_ADJUST expected %d to %d, seen %lld\n", -OFF,
				       RIGHT, moved);
		right = right && llabs(moved + OFF) <= RIGHT &&
			logged(kmsg, "CPU2: TSC out of step, TSC_ADJUST moved by -", true) &&
			wait_for_status("tsc_in_step", "yes", LOOK_MS) && switch_cpu(3, true);
		/* The kernel may have moved it by some more. */
		right = right && adjust_is(3, adjust_of(2)) && is_mode("tsc");
	} else {
		right = right && logged(kmsg, "CPU2: TSC out of step by", true) &&
			wait_for_status("tsc_in_step", "no, CPU2: TSC out of step", 0) &&
			is_mode(apart_mode()) && reads_well(READ_MS);
	}
	ksft_test_result(right, "socket-into-step: a socket %d cycles ahead is %s\n", OFF,
			 with_adjust ? "moved, in 3 runs at most" : "not moved, and no mode tsc");

	right = switch_cpu(2, false) && (!with_adjust || switch_cpu(3, false));
	must("tsc_offset socket=1 cycles=0");
	right = right && start_in_step(2) && switch_cpu(3, true) &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS) && is_mode("tsc");
	if (with_adjust) {
		if (llabs(adjust_of(2)) > RIGHT)
			ksft_print_msg("cpu2: TSC_ADJUST expected 0 to %d, seen %lld\n", RIGHT,
				       adjust_of(2));
		right = right && llabs(adjust_of(2)) <= RIGHT && adjust_is(3, adjust_of(2));
	}
	ksft_test_result(right, "... and right again when the fault is gone, with mode tsc\n");
	close(kmsg);
}

/* Rule reliable-is-not-checked: neither is the rest of the rules skipped. */
static void reliable_is_not_checked(void)
{
	long long before;
	bool right;

	right = load_anew("tsc_reliable=always") && is_mode("tsc");
	before = checks();
	right = right && restart_second_socket() && checks_rose(before, 0, 0) &&
		number_is("tsc_checks_skipped", 2) &&
		wait_for_status("tsc_cpu2", "socket=1", 0) &&
		wait_for_status("tsc_watched", "no", 0);
	if (with_adjust) {
		right = right && switch_cpu(3, false);
		must("adjust_on_start vcpu=3 value=%d", FOREIGN);
		right = right && switch_cpu(3, true) && adjust_is(3, adjust_of(2)) &&
			checks_rose(before, 0, 0);
		must("adjust_on_start vcpu=3 value=honest");
	}
	ksft_test_result(right, "reliable-is-not-checked: always: no check, TSC_ADJUST all the same\n");

	/* Told otherwise: what has stood on that word alone is checked now. */
	right = set_reliable("never") && checks_rose(before, 1, 60) &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS) &&
		wait_for_status("tsc_watched", "yes", 0) && is_mode("tsc");
	ksft_test_result(right, "... never: checked at once, and watched\n");
	ksft_test_result(file_write(RELIABLE_PARAMETER, "maybe") == -EINVAL &&
			 set_reliable("auto"), "... and what is no value is refused\n");
}

/* Rule hosts-word. Where only a check says so there is none. */
static void hosts_word(void)
{
	long long before;
	bool right;

	if (!host_vouches) {
		right = load_anew("") && wait_for_status("tsc_reliable", "no", 0) &&
			wait_for_status("tsc_watched", "yes", 0) && number_is("tsc_checks", 1);
		ksft_test_result(right && is_mode("tsc"),
				 "hosts-word: none, so the CPUs are checked at load\n");
		ksft_test_result_skip("hosts-word: withdrawn: there is none\n");
		ksft_test_result_skip("hosts-word: given again: there is none\n");
		return;
	}
	right = load_anew("") && wait_for_status("tsc_reliable", "yes", 0) &&
		wait_for_status("tsc_watched", "no", 0);
	before = checks();
	ksft_test_result(right && !before && restart_second_socket() && checks_rose(before, 0, 0) &&
			 is_mode("tsc"),
			 "hosts-word: given, so no CPU is checked\n");
	must("stable off");
	right = is_mode("page") && wait_for_status("tsc_reliable", "no", MODE_MS);
	right = restart_second_socket() && checks_rose(before, 1, 3) && right;
	start_checked(2);
	ksft_test_result(right && wait_for_status("mode", "page", 0),
			 "hosts-word: withdrawn: no mode tsc, and the next CPU to come up is checked\n");
	must("stable on");
	ksft_test_result(is_mode("tsc") && wait_for_status("tsc_reliable", "yes", 0),
			 "hosts-word: given again: mode tsc\n");
}

/* Behind the driver's back. */
static void changed(void)
{
	long long restores;
	__s64 socket;
	bool right;
	int kmsg;

	if (!with_adjust) {
		ksft_test_result_skip("changed behind our back: no TSC_ADJUST\n");
		ksft_test_result_skip("changed behind our back, again: no TSC_ADJUST\n");
		ksft_test_result_skip("changed while offline: no TSC_ADJUST\n");
		return;
	}
	right = load_anew("tsc_reliable=always") && is_mode("tsc");
	kmsg = kmsg_open();
	restores = status_number("tsc_adjust_restores");
	must("tsc_adjust vcpu=1 value=%d", OFF);
	usleep(LOOK_MS * 1000 / 2);
	right = right && adjust_is(1, 0);
	/* Whoever verifies first restores. */
	if (!kernel_verifies)
		right = right && number_is("tsc_adjust_restores", restores + 1) &&
			logged(kmsg, "CPU1: TSC_ADJUST was changed from 0 to 10000", true);
	ksft_test_result(right && is_mode("tsc"), "changed behind our back: restored, and logged\n");
	restores = status_number("tsc_adjust_restores");
	must("tsc_adjust vcpu=1 value=%d", -OFF);
	usleep(LOOK_MS * 1000 / 2);
	right = adjust_is(1, 0) && logged(kmsg, "CPU1: TSC_ADJUST was changed", false);
	if (!kernel_verifies)
		right = right && number_is("tsc_adjust_restores", restores + 1);
	ksft_test_result(right, "changed behind our back, again: restored, and not logged\n");

	restores = status_number("tsc_adjust_restores");
	socket = adjust_of(2);
	right = switch_cpu(3, false) && switch_cpu(2, false);
	must("adjust_on_start vcpu=2 value=%d", FOREIGN);
	right = right && switch_cpu(2, true) && adjust_is(2, socket) &&
		number_is("tsc_adjust_restores", restores + 1) &&
		logged(kmsg, "CPU2: TSC_ADJUST was changed from", true);
	must("adjust_on_start vcpu=2 value=honest");
	right = right && switch_cpu(3, true) && adjust_is(3, socket);
	ksft_test_result(right, "changed while offline: restored when it starts\n");
	close(kmsg);
}

/* Moves a CPU's TSC to and fro, so that both of two CPUs see the other one ahead. */
static void *move(void *unused)
{
	int turn = 0;

	(void)unused;
	while (!atomic_load(&stop_moving))
		testhost_do("tsc_offset vcpu=%d cycles=%d", moved_cpu,
			    turn++ % 2 ? RANDOM_CYCLES : -RANDOM_CYCLES);
	testhost_do("tsc_offset vcpu=%d cycles=0", moved_cpu);
	return NULL;
}

/* Back in step, by being started anew. */
static bool passes_again(void)
{
	return switch_cpu(2, false) && start_in_step(2) && switch_cpu(3, true) &&
	       wait_for_status("tsc_in_step", "yes", LOOK_MS) && is_mode("tsc");
}

/* A TSC that goes at half its speed is off again as soon as it was moved: 3 runs, and no mode tsc. */
static void drifting(void)
{
	long long before;
	bool right;
	int kmsg;

	if (kernel_verifies) {
		ksft_test_result_skip("a TSC that drifts: the kernel would call it unstable, for good\n");
		ksft_test_result_skip("a TSC that drifts, and back: likewise\n");
		return;
	}
	right = load_anew("tsc_reliable=never") && is_mode("tsc") && switch_cpu(3, false) &&
		switch_cpu(2, false);
	kmsg = kmsg_open();
	before = checks();
	must("tsc_drift vcpu=2 ppb=%d", DRIFT_PPB);
	right = right && start_checked(2) && checks_rose(before, with_adjust ? 3 : 1, 200) &&
		wait_for_status("tsc_in_step", "no, CPU2: TSC", 0) &&
		logged(kmsg, "no mode tsc until", true) && is_mode(apart_mode()) &&
		wait_for_status("why", "the TSCs of the CPUs are not in step", 0) &&
		reads_well(READ_MS);
	ksft_test_result(right, "a TSC that drifts: checked %d times, no mode tsc, with the reason\n",
			 with_adjust ? 3 : 1);
	/* What it has lost by then as well. Its sibling goes by it, and is looked at by itself when it has gone. */
	right = switch_cpu(3, true);
	must("heal");
	right = right && switch_cpu(2, false) &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS) && start_checked(2) &&
		wait_for_status("tsc_in_step", "yes", LOOK_MS) && is_mode("tsc");
	if (with_adjust)
		right = right && adjust_is(2, adjust_of(3));
	ksft_test_result(right, "... and mode tsc when the CPU has passed, with its sibling up\n");
	close(kmsg);
}

/* A TSC that moves to and fro: no correction helps, and none is made. */
static void random_warps(void)
{
	bool right, random = false;
	pthread_t thread;
	int kmsg, attempt;

	if (kernel_verifies) {
		ksft_test_result_skip("random warps: the kernel would call the TSC unstable, for good\n");
		ksft_test_result_skip("random warps, and back: likewise\n");
		return;
	}
	right = load_anew("tsc_reliable=never") && is_mode("tsc") && switch_cpu(3, false);
	kmsg = kmsg_open();
	moved_cpu = 2;
	atomic_store(&stop_moving, false);
	if (pthread_create(&thread, NULL, move, NULL))
		ksft_exit_fail_perror("a thread");
	for (attempt = 0; right && !random && attempt < ATTEMPTS; attempt++) {
		right = switch_cpu(2, false) && switch_cpu(2, true);
		random = strstr(status_text("tsc_in_step"), "CPU2: TSC warps randomly");
	}
	ksft_print_msg("seen at attempt %d\n", attempt);
	right = right && random && logged(kmsg, "CPU2: TSC warps randomly", true) &&
		is_mode(apart_mode()) && reads_well(READ_MS);
	atomic_store(&stop_moving, true);
	pthread_join(thread, NULL);
	ksft_test_result(right, "random warps: no mode tsc, with the reason\n");
	ksft_test_result(passes_again(), "... and mode tsc when the CPU has passed\n");
	close(kmsg);
}

/*
 * A register that CPUID promises, and that the host does not let anybody write, or read: the CPU is as good as one
 * without it, and is checked.
 */
static void register_faults(void)
{
	static const char *const accesses[] = { "write", "read" };
	long long before;
	unsigned int i;
	bool right;

	for (i = 0; i < sizeof(accesses) / sizeof(*accesses); i++) {
		if (!with_adjust || kernel_verifies) {
			ksft_test_result_skip("a TSC_ADJUST that faults (%s): %s\n", accesses[i],
					      with_adjust ? "the kernel accesses it as well" :
							    "there is none");
			ksft_test_result_skip("... and back (%s): likewise\n", accesses[i]);
			continue;
		}
		right = load_anew("tsc_reliable=never") && is_mode("tsc") && switch_cpu(3, false);
		must("adjust_on_start vcpu=3 value=%d", FAR);
		must("gp msr=0x3b on %s", accesses[i]);
		before = checks();
		right = right && start_checked(3) && checks_rose(before, 1, 200) &&
			number_is("tsc_adjust_faults", 1) &&
			wait_for_status("tsc_in_step", "no, CPU3: TSC out of step", 0) &&
			is_mode(apart_mode()) && reads_well(READ_MS);
		ksft_test_result(right, "a TSC_ADJUST that faults (%s): checked, and found out of step\n",
				 accesses[i]);
		must("gp msr=0x3b off");
		must("adjust_on_start vcpu=3 value=honest");
		right = switch_cpu(3, false) && start_checked(3) && adjust_is(3, adjust_of(2)) &&
			wait_for_status("tsc_in_step", "yes", LOOK_MS) && is_mode("tsc");
		ksft_test_result(right, "... and back in step when it does not (%s)\n", accesses[i]);
	}
}

/*
 * A CPU that is found out of step when it is up is moved, but not while the clock is read by its TSC: it goes by
 * the counter first. (Without one it is mode tsc alone that is left.)
 */
static void moved_when_up(void)
{
	long long left;
	bool right, in_time;
	__s64 then;

	if (!with_adjust || kernel_verifies) {
		const char *why = with_adjust ? "the kernel would move it back" : "no TSC_ADJUST";

		ksft_test_result_skip("not moved under readers: %s\n", why);
		ksft_test_result_skip("moved when it is up: %s\n", why);
		return;
	}
	right = load_anew("tsc_reliable=always") && is_mode("tsc") && switch_cpu(3, false) &&
		switch_cpu(2, false);
	must("adjust_on_start vcpu=2 value=%d", -OFF);
	/* As the driver would have it that was set to something else when it went. */
	right = right && load_anew("tsc_reliable=always") && is_mode("tsc");
	/* Reliable, so nobody looks: the first one on its socket stays as it is, and its sibling follows. */
	right = right && switch_cpu(2, true) && switch_cpu(3, true) && adjust_is(2, -OFF) &&
		adjust_is(3, -OFF);
	must("adjust_on_start vcpu=2 value=honest");
	left = status_number("left_tsc");
	right = right && set_reliable("never");
	then = adjust_of(2);
	/* A look may have been quicker than this. */
	in_time = then == -OFF || !strcmp(status_text("mode"), apart_mode());
	if (!in_time)
		ksft_print_msg("cpu2: TSC_ADJUST moved to %lld in mode %s\n", then,
			       status_text("mode"));
	ksft_test_result(right && in_time, "a TSC that is read is compared, and not moved\n");
	right = right && wait_for_status("tsc_in_step", "yes", LOOK_MS) &&
		llabs(adjust_of(2)) <= RIGHT && adjust_is(3, adjust_of(2)) && is_mode("tsc") &&
		number_is("left_tsc", left + 1) && reads_well(READ_MS);
	ksft_test_result(right, "... and moved when it is read no more, with its sibling\n");
}

/* In step when it came up, and no more. */
static void fell_apart(void)
{
	bool right;
	int kmsg;

	if (kernel_verifies) {
		ksft_test_result_skip("falling apart: the kernel would call the TSC unstable, for good\n");
		ksft_test_result_skip("falling apart, checked again: likewise\n");
		ksft_test_result_skip("falling apart, and back: likewise\n");
		return;
	}
	right = load_anew("tsc_reliable=never") && is_mode("tsc");
	kmsg = kmsg_open();
	must("tsc_offset vcpu=1 cycles=%d", FAR);
	right = right && wait_for_status("tsc_in_step", "no, CPU1: TSC out of step", LOOK_MS) &&
		logged(kmsg, "CPU1: TSC out of step by", true) && is_mode(apart_mode()) &&
		reads_well(READ_MS);
	ksft_test_result(right, "a TSC that leaves the others is found by the watch\n");
	right = set_reliable("never") && wait_for_status("tsc_in_step", "no, CPU1:", 0);
	ksft_test_result(right, "... and checked again it is no better\n");
	must("tsc_offset vcpu=1 cycles=0");
	right = set_reliable("never") && wait_for_status("tsc_in_step", "yes", LOOK_MS) &&
		is_mode("tsc");
	ksft_test_result(right, "... until it is: mode tsc\n");
	close(kmsg);
}

int main(int argc, char **argv)
{
	struct options options = { 0 };

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_testhost();
	if (!file_exists("/sys/devices/system/cpu/cpu3/online"))
		ksft_exit_skip("needs four CPUs and CONFIG_HOTPLUG_CPU\n");
	require_clock(&options);
	if (!begin_honest(4))
		ksft_exit_fail_msg("no beginning without a fault\n");
	with_adjust = *status_text("tsc_cpu0") && strstr(status_text("tsc_cpu0"), "set_to=");
	kernel_verifies = with_adjust && host_get()->tsc_invariant;
	host_vouches = host_get()->tsc_invariant;
	if (!is_mode("tsc"))
		ksft_exit_fail_msg("mode tsc expected\n");
	if (!strstr(status_text("tsc_cpu1"), "socket=0 ") ||
	    !strstr(status_text("tsc_cpu2"), "socket=1 "))
		ksft_exit_skip("needs two sockets, CPUs 0 and 1, 2 and 3\n");
	ksft_set_plan(31);
	be_urgent();

	ksft_test_result(!with_adjust || (adjust_is(0, 0) && adjust_is(1, 0) && adjust_is(2, 0) &&
					  adjust_is(3, 0)),
			 "TSC_ADJUST of all CPUs is 0, or there is none\n");
	hosts_word();
	reliable_is_not_checked();
	sibling_to_socket();
	boot_cpu_to_zero();
	socket_into_step();
	changed();
	drifting();
	random_warps();
	register_faults();
	moved_when_up();
	fell_apart();
	result_still_current(&options);
	ksft_finished();
}
