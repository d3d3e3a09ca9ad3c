#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# nested_migrate with the driver in L2 as well, and half as many migrations.

exec "$(dirname "$0")/nested_migrate" --guest paraclock --loops 200 "$@"
