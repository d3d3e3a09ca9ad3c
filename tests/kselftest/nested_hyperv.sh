#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# nested_migrate with the driver in L2, which reads the reference TSC page and the reference counter
# of L1's KVM, and half as many migrations.

exec "$(dirname "$0")/nested_migrate" --guest paraclock --interface hyperv --loops 200 "$@"
