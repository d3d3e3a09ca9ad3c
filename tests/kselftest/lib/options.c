// SPDX-License-Identifier: GPL-2.0
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "module.h"
#include "options.h"

static void usage(const char *name)
{
	fprintf(stderr,
		"Usage: %s [--clocksource NAME|any] [--self-test] [--loops N] [--s3]\n"
		"          [--expect-failure] [SECONDS]\n"
		"  --clocksource  test this one; any: the current one, with nothing loaded or\n"
		"                 selected (default: " MODULE_NAME ")\n"
		"  --self-test    inject a fault that the test has to report\n"
		"  --s3           suspend: really, woken by the RTC, not by pm_test\n"
		"  --expect-failure  the control: pass if what is tested is found to be wrong\n",
		name);
	exit(2);
}

static unsigned int number(const char *name, const char *text)
{
	unsigned long value;
	char *end;

	value = strtoul(text, &end, 10);
	if (end == text || *end || !value || value > 86400)
		usage(name);
	return (unsigned int)value;
}

void options_parse(int argc, char **argv, struct options *options)
{
	static const struct option list[] = {
		{ "clocksource", required_argument, NULL, 'c' },
		{ "loops", required_argument, NULL, 'n' },
		{ "self-test", no_argument, NULL, 's' },
		{ "s3", no_argument, NULL, '3' },
		{ "expect-failure", no_argument, NULL, 'x' },
		{ 0 },
	};
	int opt;

	if (!options->clocksource)
		options->clocksource = MODULE_NAME;
	while ((opt = getopt_long(argc, argv, "", list, NULL)) != -1) {
		switch (opt) {
		case 'c':
			options->clocksource = optarg;
			break;
		case 'n':
			options->loops = number(argv[0], optarg);
			break;
		case 's':
			options->self_test = true;
			break;
		case '3':
			options->s3 = true;
			break;
		case 'x':
			options->expect_failure = true;
			break;
		default:
			usage(argv[0]);
		}
	}
	if (optind < argc)
		options->seconds = number(argv[0], argv[optind++]);
	if (optind < argc)
		usage(argv[0]);
}

bool options_any(const struct options *options)
{
	return !strcmp(options->clocksource, "any");
}
