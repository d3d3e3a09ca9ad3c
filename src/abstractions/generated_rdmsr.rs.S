/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The assembler text of an RDMSR that goes on behind it where it faults, for asm! in msr.rs: the
 * entry of the exception table is the kernel's (arch/x86/include/asm/asm.h).
 */

#include <asm/asm.h>

// Cut here.

::kernel::concat_literals!("2: rdmsr\n" "3:\n" _ASM_EXTABLE(2b, 3b))
