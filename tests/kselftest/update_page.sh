#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# update_migrate with the driver in mode page, which updates nothing.

export PARACLOCK_ARGS="mode=page" PARACLOCK_MODE=page PARACLOCK_VDSO=hvclock
exec "$(dirname "$0")/update_migrate" --loops 60 "$@"
