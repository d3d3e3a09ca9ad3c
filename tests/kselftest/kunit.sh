#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the KUnit suites of paraclock_kunit.ko, and those of the kernel's that belong to
# the series, and prints their KTAP. They run when debugfs is told so; their results
# stand there as well.

KSFT_PASS=0
KSFT_FAIL=1
KSFT_SKIP=4

name=paraclock_kunit
ko="${PARACLOCK_KUNIT_KO:-/lib/modules/$name.ko}"
debugfs=/sys/kernel/debug
results=$debugfs/kunit

skip()
{
	echo "TAP version 13"
	echo "1..0 # SKIP $1"
	exit $KSFT_SKIP
}

bail()
{
	echo "Bail out! $1"
	exit $KSFT_FAIL
}

[ "$(id -u)" -eq 0 ] || skip "needs root"
[ -r "$ko" ] || skip "no module $ko"
[ -d $results ] || mount -t debugfs none $debugfs 2>/dev/null
[ -d $results ] || skip "no $results: needs CONFIG_KUNIT_DEBUGFS"

# Built into the kernel, by a patch of the series.
builtin=clocksource_update

# A list of what is there before: suites built into the kernel are not ours.
before=" "
for dir in "$results"/*; do
	before="$before$(basename "$dir") "
done
insmod "$ko" || bail "insmod $ko failed"
trap 'rmmod $name' EXIT

suites=
for dir in "$results"/*; do
	suite=$(basename "$dir")
	case "$before" in
	*" $suite "*)	;;
	*)		suites="$suites $suite" ;;
	esac
done
# shellcheck disable=SC2086 # one word a suite
set -- $suites
[ $# -gt 0 ] || bail "$name has no suites: is kunit.enable=1 set?"
[ ! -d $results/$builtin ] || set -- "$@" $builtin

echo "KTAP version 1"
echo "1..$#"
number=0
failed=0
for suite; do
	number=$((number + 1))
	echo 1 >"$results/$suite/run"
	out=$(cat "$results/$suite/results")
	# Each file is a document of its own, of one result: as one of ours, only its
	# header goes, and the result gets our number.
	printf '%s\n' "$out" | sed -e '/^KTAP version/d' -e '/^1\.\.1$/d' \
		-e "s/^\(ok\|not ok\) 1 /\1 $number /"
	if printf '%s\n' "$out" | grep -q '^ *not ok ' ||
	   ! printf '%s\n' "$out" | grep -q '^ok '; then
		failed=$((failed + 1))
		echo "# suite $suite: expected every result ok"
	fi
done

echo "# $# suites, $failed failed"
[ $failed -eq 0 ] || exit $KSFT_FAIL
exit $KSFT_PASS
