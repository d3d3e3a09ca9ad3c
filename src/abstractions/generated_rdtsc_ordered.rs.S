/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The assembler text of rdtsc_ordered() (arch/x86/include/asm/tsc.h), for asm! in tsc.rs: the
 * kernel patches in the instruction that orders best on this CPU when it loads the module.
 */

#include <asm/alternative.h>
#include <asm/cpufeatures.h>

// Cut here.

::kernel::concat_literals!(ALTERNATIVE_2("rdtsc", "lfence; rdtsc", X86_FEATURE_LFENCE_RDTSC, "rdtscp", X86_FEATURE_RDTSCP))
