/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints: what happens when the clock changes what it reads, or the TSC
 * changes under it.
 *
 * Nothing may be recorded while the readers are stopped, since that asks for
 * the time: what belongs there is recorded when they have gone on, by the
 * TSC at that moment.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM paraclock

#if !defined(PARACLOCK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define PARACLOCK_TRACE_H

#include <linux/tracepoint.h>

/* As enum Mode in logic/options.rs */
#define paraclock_show_mode(mode) \
	__print_symbolic(mode, { 0, "tsc" }, { 1, "page" }, { 2, "msr" })

TRACE_EVENT(paraclock_update_begin,
	TP_PROTO(u32 from, u32 to),
	TP_ARGS(from, to),
	TP_STRUCT__entry(
		__field(u32, from)
		__field(u32, to)
	),
	TP_fast_assign(
		__entry->from = from;
		__entry->to = to;
	),
	TP_printk("from=%s to=%s", paraclock_show_mode(__entry->from),
		  paraclock_show_mode(__entry->to))
);

/* A change of the TSC: the old one before the acknowledgment, the new one after it */
TRACE_EVENT(paraclock_acknowledge,
	TP_PROTO(u64 tsc_before, u64 tsc_after, u64 hz),
	TP_ARGS(tsc_before, tsc_after, hz),
	TP_STRUCT__entry(
		__field(u64, tsc_before)
		__field(u64, tsc_after)
		__field(u64, hz)
	),
	TP_fast_assign(
		__entry->tsc_before = tsc_before;
		__entry->tsc_after = tsc_after;
		__entry->hz = hz;
	),
	TP_printk("tsc_before=%llu tsc_after=%llu hz=%llu", __entry->tsc_before,
		  __entry->tsc_after, __entry->hz)
);

TRACE_EVENT(paraclock_update_end,
	TP_PROTO(u32 mode, int error, u64 elapsed_ns, s64 correction_ns),
	TP_ARGS(mode, error, elapsed_ns, correction_ns),
	TP_STRUCT__entry(
		__field(u32, mode)
		__field(int, error)
		__field(u64, elapsed_ns)
		__field(s64, correction_ns)
	),
	TP_fast_assign(
		__entry->mode = mode;
		__entry->error = error;
		__entry->elapsed_ns = elapsed_ns;
		__entry->correction_ns = correction_ns;
	),
	TP_printk("mode=%s error=%d elapsed_ns=%llu correction_ns=%lld",
		  paraclock_show_mode(__entry->mode), __entry->error,
		  __entry->elapsed_ns, __entry->correction_ns)
);

#endif /* PARACLOCK_TRACE_H */

/* This part must be outside protection */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
