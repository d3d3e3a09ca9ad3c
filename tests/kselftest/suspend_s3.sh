#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The suspend test, all the way: into S3, and woken by the RTC.

exec ./suspend --s3 "$@"
