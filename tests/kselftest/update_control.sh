#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The control of update_migrate: the C clock that nobody tells of a migration, found to be wrong.

exec "$(dirname "$0")/update_migrate" --clocksource tsc --expect-failure --loops 40 "$@"
