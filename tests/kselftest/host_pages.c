// SPDX-License-Identifier: GPL-2.0
/*
 * The pages themselves, by a reader that keeps to their protocols, on every CPU at once, while the
 * host changes the TSC and rewrites all pages as fast as it can: a reading whose version or
 * sequence has settled lies between two of the ruler. The TSC is then never earlier than
 * tsc_timestamp either, which is what KVM's arithmetic, without a sign, takes for granted.
 */
#include <pthread.h>

#include "lib/hostfixture.h"
#include "lib/page.h"
#include "lib/ram.h"

#define DEFAULT_SECONDS	10
#define RATE		2000
#define SEED		7
/* KVM's clock, whose arithmetic rounds; the page's is exact, but for the unit that it is in. */
#define KVM_OFF_NS	100
#define HV_OFF		1
#define PATIENCE	10

struct reader {
	pthread_t thread;
	int cpu;
	struct kvm_page *page;
	__u64 gpa;
	__u64 reads, again, early, off, hv_reads, hv_off;
	__s64 worst_cycles, worst_ns, hv_worst;
};

static struct hv_page *hv;
static __u64 hv_gpa;
static bool stop;
/* --self-test: who does not look at the version again is wrong now and then, and that shows. */
static bool careless;

static __s64 worse(__s64 a, __s64 b)
{
	return llabs(b) > llabs(a) ? b : a;
}

static __s64 outside(__u64 now, __u64 before, __u64 after)
{
	return now < before ? (__s64)(now - before) : now > after ? (__s64)(now - after) : 0;
}

static void read_kvm(struct reader *r)
{
	__u64 before = ruler_read().ref_ns, delta, ns;
	const struct kvm_page *page = r->page;
	__s64 off, cycles;
	__u32 version;

	for (;;) {
		version = page->version;
		barrier();
		cycles = (__s64)(rdtsc_ordered() - page->tsc);
		delta = page->shift < 0 ? (__u64)cycles >> -page->shift :
					  (__u64)cycles << page->shift;
		ns = page->system + (__u64)(((unsigned __int128)delta * page->mul) >> 32);
		barrier();
		if (careless || (!(version & 1) && page->version == version))
			break;
		r->again++;
	}
	off = outside(ns, before, ruler_read().ref_ns);
	r->reads++;
	if (cycles < 0) {
		r->early++;
		r->worst_cycles = cycles < r->worst_cycles ? cycles : r->worst_cycles;
	}
	if (llabs(off) > KVM_OFF_NS) {
		r->off++;
		r->worst_ns = llabs(off) > llabs(r->worst_ns) ? off : r->worst_ns;
	}
}

static void read_hv(struct reader *r)
{
	__u64 before = ruler_count(), now = hv_count(hv);
	__s64 off;

	/* Invalid for a moment, as an honest host's is. */
	if (now == HV_INVALID)
		return;
	off = outside(now, before, ruler_count());
	r->hv_reads++;
	if (llabs(off) > HV_OFF) {
		r->hv_off++;
		r->hv_worst = llabs(off) > llabs(r->hv_worst) ? off : r->hv_worst;
	}
}

static void *read_pages(void *arg)
{
	struct reader *r = arg;

	pin_to_cpu(r->cpu);
	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		read_kvm(r);
		read_hv(r);
	}
	return NULL;
}

static void register_pages(struct reader *readers, int n)
{
	int i;

	hv = ram_page(&hv_gpa);
	if (!hv || !wrmsr(0, HV_X64_MSR_REFERENCE_TSC, hv_gpa | PAGE_MSR_ENABLED))
		ksft_exit_fail_perror("a page for Hyper-V's clock");
	for (i = 0; i < n; i++) {
		struct reader *r = &readers[i];

		r->page = ram_page(&r->gpa);
		if (!r->page || !wrmsr(r->cpu, MSR_KVM_SYSTEM_TIME_NEW, r->gpa | PAGE_MSR_ENABLED))
			ksft_exit_fail_perror("a page for KVM's clock");
	}
}

int main(int argc, char **argv)
{
	struct options options = { .clocksource = "any", .seconds = DEFAULT_SECONDS };
	struct reader readers[MAX_CPUS] = {}, all = {};
	const struct host *host = host_get();
	int cpus[MAX_CPUS], n, i;
	__s64 asked, done;

	options_parse(argc, argv, &options);
	careless = options.self_test;
	ksft_print_header();
	require_testhost();
	if (!host->hyperv_page || !host->kvm_msr)
		ksft_exit_skip("the host does not show both clocks\n");
	if (geteuid())
		ksft_exit_skip("needs root\n");
	if (stock_clock())
		ksft_exit_skip("the kernel uses the host's clock, and its pages\n");
	ksft_set_plan(5);
	be_urgent();

	must("heal");
	n = cpus_online(cpus, MAX_CPUS);
	for (i = 0; i < n; i++)
		readers[i].cpu = cpus[i];
	register_pages(readers, n);
	for (i = 0; i < n; i++)
		if (pthread_create(&readers[i].thread, NULL, read_pages, &readers[i]))
			ksft_exit_fail_perror("starting a thread");

	asked = (__s64)options.seconds * RATE;
	must("storm seed=%d rate=%d count=%lld kinds=migrate,rewrite,stable", SEED, RATE, asked);
	for (i = 0; i < (int)options.seconds * PATIENCE && testhost_ask("storm", "running"); i++)
		ruler_wait_us(1000000);
	testhost_ask("storm", "done");
	done = testhost_value("done");
	ksft_print_msg("%s\n", testhost_reply());
	must("heal");
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < n; i++) {
		struct reader *r = &readers[i];

		pthread_join(r->thread, NULL);
		ksft_print_msg("cpu%d: %llu readings, %llu begun again; %llu from before tsc_timestamp, worst %lld cycles; %llu off, worst %lld ns; Hyper-V's: %llu, %llu off, worst %lld units\n",
			       r->cpu, r->reads, r->again, r->early, r->worst_cycles, r->off,
			       r->worst_ns, r->hv_reads, r->hv_off, r->hv_worst);
		all.reads += r->reads;
		all.again += r->again;
		all.early += r->early;
		all.off += r->off;
		all.hv_reads += r->hv_reads;
		all.hv_off += r->hv_off;
		all.worst_cycles = worse(all.worst_cycles, r->worst_cycles);
		all.worst_ns = worse(all.worst_ns, r->worst_ns);
		all.hv_worst = worse(all.hv_worst, r->hv_worst);
	}
	if (done != asked)
		ksft_print_msg("expected %lld commands, seen %lld\n", asked, done);
	ksft_test_result(done == asked, "%lld commands, %d a second asked for\n", done, RATE);
	if (!all.again)
		ksft_print_msg("expected a reading that begins again, seen none of %llu\n", all.reads);
	ksft_test_result(all.again > 0, "updates are met in the middle of a reading\n");
	if (all.early)
		ksft_print_msg("expected 0 readings from before tsc_timestamp, seen %llu, worst %lld cycles\n",
			       all.early, all.worst_cycles);
	ksft_test_result(all.reads && !all.early,
			 "KVM's pages: no TSC from before tsc_timestamp in %llu readings\n",
			 all.reads);
	if (all.off)
		ksft_print_msg("expected 0 readings off by more than %d ns, seen %llu, worst %lld ns\n",
			       KVM_OFF_NS, all.off, all.worst_ns);
	ksft_test_result(all.reads && !all.off, "KVM's pages: with the ruler, to %d ns\n",
			 KVM_OFF_NS);
	if (all.hv_off)
		ksft_print_msg("expected 0 readings off by more than %d units, seen %llu, worst %lld\n",
			       HV_OFF, all.hv_off, all.hv_worst);
	ksft_test_result(all.hv_reads && !all.hv_off,
			 "Hyper-V's page: with the ruler in %llu readings\n", all.hv_reads);
	wrmsr(0, HV_X64_MSR_REFERENCE_TSC, 0);
	for (i = 0; i < n; i++)
		wrmsr(readers[i].cpu, MSR_KVM_SYSTEM_TIME_NEW, 0);
	ksft_finished();
}
