// SPDX-License-Identifier: GPL-2.0
/*
 * The driver's tracepoints, through migrations: each is a begin, an acknowledgement of the
 * frequency that the host goes to, and an end, in that order; and so is each change of the mode,
 * without an acknowledgement. Meanwhile every access to an MSR is traced as well, by the clock
 * that reads time where the readers are stopped: the bracket survives that.
 *
 * Needs a kernel with CONFIG_EVENT_TRACING.
 */
#include <sys/mount.h>

#include "lib/updatefixture.h"

#define MIGRATIONS	20
#define TRACING		"/sys/kernel/tracing"
#define EVENTS		TRACING "/events/" MODULE_NAME
#define MSR_EVENTS	TRACING "/events/msr/enable"
#define LINE		512
#define SWITCH_SECONDS	10
#define SETTLE_MS	20000

/* No bracket is open for longer, on the busiest machine. */
#define LONGEST_NS	(5 * NSEC_PER_SEC)

enum event {
	BEGIN,
	ACKNOWLEDGE,
	END,
};

static const char * const names[] = {
	[BEGIN] = "paraclock_update_begin: ",
	[ACKNOWLEDGE] = "paraclock_acknowledge: ",
	[END] = "paraclock_update_end: ",
};

struct record {
	enum event event;
	char text[LINE];
};

static struct record *records;
static size_t n;

static void tracing(const char *file, const char *value)
{
	int err = file_write(file, value);

	if (err)
		ksft_exit_fail_msg("%s: writing '%s': expected success, got %s (%d)\n", file, value,
				   strerror(-err), -err);
}

/* The driver's events; those of the MSRs are only to be survived. */
static void read_trace(void)
{
	FILE *file = fopen(TRACING "/trace", "r");
	char line[LINE];

	if (!file)
		ksft_exit_fail_perror(TRACING "/trace");
	while (fgets(line, sizeof(line), file)) {
		enum event event;
		const char *text;

		for (event = BEGIN; event <= END; event++) {
			text = strstr(line, names[event]);
			if (text)
				break;
		}
		if (!text || *line == '#')
			continue;
		records = realloc(records, (n + 1) * sizeof(*records));
		if (!records)
			ksft_exit_fail_perror("memory");
		records[n].event = event;
		snprintf(records[n].text, LINE, "%s", text + strlen(names[event]));
		records[n].text[strcspn(records[n].text, "\n")] = '\0';
		n++;
	}
	fclose(file);
}

static bool text_is(const struct record *r, const char *expected)
{
	return !strncmp(r->text, expected, strlen(expected));
}

static bool ended_well(const struct record *r)
{
	__u64 elapsed = testhost_value_in(r->text, "elapsed_ns");

	if (r->event == END && strstr(r->text, " error=0 ") && elapsed && elapsed < LONGEST_NS)
		return true;
	ksft_print_msg("expected an end without an error and a time above 0, seen '%s%s'\n",
		       names[r->event], r->text);
	return false;
}

/* A change of the mode among them; the poll may have corrected the clock before and after. */
static bool changed(const char *begin, const char *end)
{
	size_t i;

	for (i = 0; i + 1 < n; i++)
		if (records[i].event == BEGIN && text_is(&records[i], begin))
			return text_is(&records[i + 1], end) && ended_well(&records[i + 1]);
	ksft_print_msg("expected '%s%s' and '%s%s', seen %zu other records\n", names[BEGIN], begin,
		       names[END], end, n);
	return false;
}

/* One migration's records, from the i-th on: where they end, or 0. */
static size_t migration(size_t i, __u64 khz)
{
	__u64 hz;

	if (i + 3 > n || records[i].event != BEGIN || records[i + 1].event != ACKNOWLEDGE)
		return 0;
	hz = testhost_value_in(records[i + 1].text, "hz");
	if (hz < khz * 1000 - khz || hz > khz * 1000 + khz) {
		ksft_print_msg("expected %llu kHz, seen '%s'\n", khz, records[i + 1].text);
		return 0;
	}
	if (!text_is(&records[i], "from=tsc to=tsc") || !ended_well(&records[i + 2]))
		return 0;
	return i + 3;
}

int main(int argc, char **argv)
{
	struct options options = { 0 };
	__u64 khz[MIGRATIONS];
	size_t i = 0, found = 0, at;
	int err;

	options_parse(argc, argv, &options);
	ksft_print_header();
	require_update(&options);
	if (!of_driver(&options))
		ksft_exit_skip("the tracepoints are the driver's\n");
	if (!expects_tsc())
		ksft_exit_skip("mode %s updates nothing\n", expected().mode);
	mount("tracefs", TRACING, "tracefs", 0, NULL);
	if (!file_exists(TRACING "/trace"))
		ksft_exit_skip("needs CONFIG_EVENT_TRACING\n");
	if (!file_exists(EVENTS "/enable"))
		ksft_exit_fail_msg("tracing is there, and no " EVENTS "\n");
	ksft_set_plan(5);

	tracing(TRACING "/trace_clock", "mono");
	tracing(TRACING "/trace", "");
	tracing(EVENTS "/enable", "1");
	if (file_exists(MSR_EVENTS))
		tracing(MSR_EVENTS, "1");
	for (i = 0; i < MIGRATIONS; i++) {
		__u32 generation = ruler_generation();

		khz[i] = somewhere("");
		if (!wait_for_switch(generation, SWITCH_SECONDS))
			break;
		/* What is corrected after that is another update. */
		sleep_ns(NSEC_PER_SEC / 10);
	}
	ksft_test_result(i == MIGRATIONS, "%zu of %d migrations while each access to an MSR is traced\n",
			 i, MIGRATIONS);
	if (file_exists(MSR_EVENTS))
		tracing(MSR_EVENTS, "0");
	tracing(EVENTS "/enable", "0");
	read_trace();
	for (at = 0; at < n && found < i;) {
		size_t next = migration(at, khz[found]);

		if (next)
			found++;
		/* A correction by the poll, a begin and an end, may stand in between. */
		at = next ? next : at + 1;
	}
	ksft_print_msg("%zu records\n", n);
	ksft_test_result(found == i && found,
			 "%zu of %zu are a begin, an acknowledgement of the new frequency, an end\n",
			 found, i);

	n = 0;
	tracing(TRACING "/trace", "");
	tracing(EVENTS "/enable", "1");
	err = file_write(MODE_PARAMETER, "page");
	if (!err && wait_for_mode("page", SETTLE_MS))
		err = file_write(MODE_PARAMETER, "auto");
	ksft_test_result(!err && wait_for_mode("tsc", SETTLE_MS), "mode page, and tsc again\n");
	tracing(EVENTS "/enable", "0");
	read_trace();
	ksft_test_result(changed("from=tsc to=page", "mode=page"),
			 "the change to mode page is a begin and an end\n");
	ksft_test_result(changed("from=page to=tsc", "mode=tsc"),
			 "the change to mode tsc is a begin and an end\n");
	free(records);
	ksft_finished();
}
