#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# update_faults with the driver in mode page: what a host does that keeps the page back until a change of
# the TSC is acknowledged, of which it may have told nobody.

export PARACLOCK_ARGS="mode=page" PARACLOCK_MODE=page PARACLOCK_VDSO=hvclock
export PARACLOCK_FAULT="until acknowledged"
exec "$(dirname "$0")/update_faults" "$@"
