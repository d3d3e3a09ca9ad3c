// SPDX-License-Identifier: GPL-2.0
#include "kselftest.h"
#include "clocksource.h"
#include "files.h"

#define CS_DIR "/sys/devices/system/clocksource/clocksource0/"

int cs_current(char *name, size_t size)
{
	return file_read(CS_DIR "current_clocksource", name, size);
}

bool cs_is_current(const char *name)
{
	char now[CS_NAME];

	return cs_current(now, sizeof(now)) > 0 && !strcmp(now, name);
}

int cs_available(char *names, size_t size)
{
	return file_read(CS_DIR "available_clocksource", names, size);
}

bool cs_is_available(const char *name)
{
	char names[512], *save, *word;

	if (cs_available(names, sizeof(names)) < 0)
		return false;
	for (word = strtok_r(names, " ", &save); word; word = strtok_r(NULL, " ", &save))
		if (!strcmp(word, name))
			return true;
	return false;
}

int cs_select(const char *name)
{
	char line[CS_NAME];
	int err;

	snprintf(line, sizeof(line), "%s\n", name);
	err = file_write(CS_DIR "current_clocksource", line);
	if (err)
		return err;
	return cs_is_current(name) ? 0 : -EAGAIN;
}

int cs_select_by_rating(void)
{
	return file_write(CS_DIR "current_clocksource", "\n");
}

static int cs_first_of(const char * const *list, size_t n, const char *than,
		       char *name, size_t size)
{
	size_t i;

	for (i = 0; i < n; i++) {
		if (than && !strcmp(list[i], than))
			continue;
		if (!cs_is_available(list[i]))
			continue;
		snprintf(name, size, "%s", list[i]);
		return 0;
	}
	return -ENOENT;
}

int cs_other(const char *than, char *name, size_t size)
{
	static const char * const list[] = {
		"hyperv_clocksource_tsc_page", "kvm-clock", "tsc", "hyperv_clocksource_msr",
		"hpet", "acpi_pm", "tsc-early", "refined-jiffies", "jiffies",
	};

	return cs_first_of(list, ARRAY_SIZE(list), than, name, size);
}

int cs_without_vdso(char *name, size_t size)
{
	static const char * const list[] = { "acpi_pm", "hpet", "refined-jiffies", "jiffies" };

	return cs_first_of(list, ARRAY_SIZE(list), NULL, name, size);
}
