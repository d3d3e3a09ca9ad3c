// SPDX-License-Identifier: GPL-2.0
/* The module's tracepoints, which only C can define, and calls of them for Rust. */
#include <linux/types.h>

#define CREATE_TRACE_POINTS
#include "trace.h"
#include "helpers.h"

void paraclock_trace_update_begin(u32 from, u32 to)
{
	trace_paraclock_update_begin(from, to);
}

void paraclock_trace_acknowledge(u64 tsc_before, u64 tsc_after, u64 hz)
{
	trace_paraclock_acknowledge(tsc_before, tsc_after, hz);
}

void paraclock_trace_update_end(u32 mode, int error, u64 elapsed_ns, s64 correction_ns)
{
	trace_paraclock_update_end(mode, error, elapsed_ns, correction_ns);
}
