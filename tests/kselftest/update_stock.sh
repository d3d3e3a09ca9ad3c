#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# update_migrate with the C clock that reads the host's page, by the same measures.

exec "$(dirname "$0")/update_migrate" --clocksource hyperv_clocksource_tsc_page --loops 60 "$@"
