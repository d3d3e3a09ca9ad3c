// SPDX-License-Identifier: GPL-2.0
/*
 * clockview [SECONDS]: what a person wants to see of the clock: which one is selected, how
 * the driver works at the moment, and its readings beside the C clock's and the host's.
 * Exit status 0 only if nothing is wrong.
 */
#include "kselftest.h"
#include "lib/clock.h"
#include "lib/clocksource.h"
#include "lib/nosyscall.h"
#include "lib/options.h"
#include "lib/page.h"
#include "lib/ptp.h"
#include "lib/readers.h"
#include "lib/status.h"

#define DEFAULT_SECONDS	5
#define SAMPLES		200

static int wrong;
static char backend[16], vdso[16];

static void complain(const char *what)
{
	printf("  ** wrong: %s\n", what);
	wrong = 1;
}

static void show_selection(const struct options *options)
{
	char text[512];

	cs_available(text, sizeof(text));
	printf("clocksources    %s\n", text);
	cs_current(text, sizeof(text));
	printf("selected        %s\n", text);
	if (!options_any(options) && strcmp(text, options->clocksource))
		complain("the clocksource is not selected");
}

static void show_status(const struct options *options)
{
	static const char * const keys[] = {
		"backend", "mode", "vdso", "page_owner", "stable", "rating",
	};
	struct status status;
	char value[64];
	size_t i;
	int err;

	if (options_any(options))
		return;
	debugfs_mount();
	err = status_read(&status);
	if (err) {
		printf("%s: %s\n", STATUS_PATH, strerror(-err));
		complain("no status file");
		return;
	}
	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		if (status_get(&status, keys[i], value, sizeof(value)))
			printf("%-15s %s\n", keys[i], value);
		else
			complain("a line is missing in the status file");
	}
	status_get(&status, "backend", backend, sizeof(backend));
	status_get(&status, "vdso", vdso, sizeof(vdso));
}

/* In a mode without a vDSO's clock the call has to be made. */
static void show_vdso(void)
{
	enum nosyscall expected = strcmp(vdso, "none") ? NOSYSCALL_NONE : NOSYSCALL_MADE;
	clockid_t id = CLOCK_MONOTONIC;
	enum nosyscall seen = nosyscall_run(nosyscall_by_vdso, &id);

	printf("vDSO            clock_gettime(): %s\n", nosyscall_name(seen));
	if (seen != expected)
		complain("that is not what the driver says of the vDSO");
}

/* One line of the table. Keeps the worst distances from the first line. */
struct view {
	struct page_clock page;
	bool with_page;
	int ptp;
	struct agreement all;
	__s64 c_first;
	__s64 c_worst;
	__s64 host_first;
	__s64 host_worst;
	bool c_seen;
	bool host_seen;
	__u64 reads;
	__u64 elapsed_ns;
};

static __s64 worse(__s64 worst, __s64 now)
{
	return (now < 0 ? -now : now) > (worst < 0 ? -worst : worst) ? now : worst;
}

static void show_c_clock(struct view *view)
{
	struct agreement now;
	__s64 middle;
	int i;

	agreement_init(&now);
	for (i = 0; view->with_page && i < SAMPLES; i++) {
		agreement_sample(&now, &view->page, vdso_ns, 0);
		agreement_sample(&view->all, &view->page, vdso_ns, 0);
	}
	if (!now.samples) {
		printf(" %18s", "-");
		return;
	}
	middle = now.low + (now.high - now.low) / 2;
	if (!view->c_seen)
		view->c_first = middle;
	view->c_seen = true;
	middle -= view->c_first;
	view->c_worst = worse(view->c_worst, middle);
	printf(" %+10lld +-%5lld", middle, (now.high - now.low + 1) / 2);
}

static void show_host(struct view *view)
{
	struct cross_timestamp stamp;
	__s64 distance;

	if (view->ptp < 0 || ptp_cross_timestamp(view->ptp, &stamp)) {
		printf(" %14s", "-");
		return;
	}
	distance = stamp.realtime_ns - stamp.host_ns;
	if (!view->host_seen)
		view->host_first = distance;
	view->host_seen = true;
	distance -= view->host_first;
	view->host_worst = worse(view->host_worst, distance);
	printf(" %+14lld", distance);
}

static void show_line(struct view *view, const struct readers *readers, __u64 start)
{
	struct reader_count count = readers_count(readers, -1, -1);
	__u64 raw = vdso_ns(CLOCK_MONOTONIC_RAW);
	__u64 elapsed = (vdso_ns(CLOCK_MONOTONIC) - start) / 1000000;

	printf("%6llu.%03llu %11llu.%09llu %11llu", elapsed / 1000, elapsed % 1000,
	       raw / NSEC_PER_SEC, raw % NSEC_PER_SEC, count.reads - view->reads);
	view->reads = count.reads;
	view->elapsed_ns = elapsed * 1000000;
	show_c_clock(view);
	show_host(view);
	printf(" %9llu\n", count.backward);
}

static void show_verdict(const struct view *view, const struct reader_count *count)
{
	/* Without the vDSO, of a clock in whole units: of Hyper-V's counter. */
	__s64 bound = AGREEMENT_ROUNDING_NS + (strcmp(vdso, "none") ? 0 : AGREEMENT_UNIT_NS);
	__s64 gap = agreement_gap(&view->all);

	/* Half a unit of a multiplier of 22 bits: the TSC's is rounded, a page's is not. */
	if (!strcmp(vdso, "tsc"))
		bound += view->elapsed_ns >> 22;

	printf("\n%llu readings on all CPUs, %llu of them backward\n", count->reads,
	       count->backward);
	if (count->backward)
		complain("time stepped back");
	if (view->c_seen) {
		printf("C clock: furthest apart %+lld ns; one constant distance %s all brackets\n",
		       view->c_worst, gap <= bound ? "fits" : "does NOT fit");
		printf("C clock: the narrowest bracket is %llu ns\n", view->all.narrowest);
		if (gap > bound)
			complain("the clock and the C clock's arithmetic drift apart");
	} else {
		printf("C clock: user space cannot read its page here\n");
	}
	if (view->host_seen)
		printf("host's clock: furthest apart %+lld ns (its own adjustments included)\n",
		       view->host_worst);
	else
		printf("host's clock: no cross timestamps here\n");
}

int main(int argc, char **argv)
{
	struct options options = { .seconds = DEFAULT_SECONDS };
	struct view view = { 0 };
	struct readers *readers;
	struct reader_count count;
	unsigned int second;
	__u64 start;

	options_parse(argc, argv, &options);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (clock_init()) {
		fprintf(stderr, "clockview: no vDSO in this process\n");
		return 1;
	}
	show_selection(&options);
	show_status(&options);
	show_vdso();

	view.with_page = page_clock_open(&view.page, backend);
	view.ptp = ptp_open();
	agreement_init(&view.all);
	readers = readers_start(READERS_MIXED, options.self_test);
	if (!readers) {
		fprintf(stderr, "clockview: starting the readers: %s\n", strerror(errno));
		return 1;
	}

	printf("\n%10s %21s %11s %18s %14s %9s\n", "elapsed", "CLOCK_MONOTONIC_RAW", "readings",
	       "off the C clock", "off the host", "backward");
	printf("%10s %21s %11s %18s %14s %9s\n", "s", "s", "", "ns", "ns", "");
	start = vdso_ns(CLOCK_MONOTONIC);
	for (second = 0; second <= options.seconds; second++) {
		show_line(&view, readers, start);
		if (second < options.seconds)
			sleep_ns(NSEC_PER_SEC);
	}
	readers_stop(readers);

	count = readers_count(readers, -1, -1);
	show_verdict(&view, &count);
	show_selection(&options);
	readers_free(readers);
	return wrong;
}
