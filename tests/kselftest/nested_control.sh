#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The control of nested_migrate: the C clock in L1 that nobody tells of a migration, and L2 with it.

exec "$(dirname "$0")/nested_migrate" --clocksource tsc --expect-failure --loops 20 "$@"
