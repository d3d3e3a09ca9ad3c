// SPDX-License-Identifier: GPL-2.0
/*
 * This guest as a host, by KVM's API alone: migrations of it, between 1.0 and 4.0 GHz and with the
 * TSC jumping by hundreds of seconds both ways, while VMs are there whose vCPUs do nothing. Their
 * TSCs go on, at the frequency of the time, and stay in step; a vCPU that comes later is in step
 * as well; KVM_GET_CLOCK stays with the host's reference time; and who writes a TSC while the
 * host's changes finds it where it was written.
 *
 * KVM does not scale here, since the test host's SVM can't. --loops: how many migrations.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "lib/updatefixture.h"

#define DEFAULT_MIGRATIONS	100
#define SWITCH_SECONDS		10
/* From one to the next. */
#define DWELL_NS		10000000
#define SHOWN			5

/* Two to begin with; then one after the other. */
#define FIRST_VCPUS		2
#define ADDED_VCPUS		3
#define MOST_VCPUS		(FIRST_VCPUS + ADDED_VCPUS)

/*
 * A guest's TSC advances at the first frequency until the switch, and then at one between the two,
 * since KVM counts by the first one until it is told: to that, in so many of 100 migrations. KVM
 * reads TSC and timekeeper one after the other, before the change and after it. Who takes its CPU
 * away in between makes the guest's TSC gain as much.
 */
#define SLACK_NS		20000
#define GOOD_PERCENT		80

/* What is written is so far from what was read that KVM does not take it for the same. */
#define FAR_CYCLES		40000000000ll
/* Where the jump is missed it is minutes. */
#define ASTRAY_NS		1000000000ll
/* Two writes that KVM is to take for one are less than a second apart. */
#define TOGETHER_NS		300000000

/* KVM_GET_CLOCK against reference time. */
#define BOUND_NS		1000
#define CLOCK_READINGS		32
#define ROUNDING_NS		2
/* No range counts that is wider, as that of a clock that comes without a TSC may be. */
#define WIDE_NS			10000

/* 0.1 %: what 1000 is of it. */
#define KHZ_FRACTION		1000

#define RESULTS			14

/* HLT, and again, at address 0, in real mode. */
static const unsigned char program[] = { 0xf4, 0xeb, 0xfd };
#define PROGRAM_SIZE		4096

struct vcpu {
	int fd;
	struct kvm_run *run;
	size_t run_size;
};

struct vm {
	int kvm, fd;
	void *memory;
	unsigned int vcpus;
	struct vcpu vcpu[MOST_VCPUS];
};

/* Of a guest's TSC, and between which two readings of the ruler, ns. */
struct reading {
	__u64 before, after;
	__u64 tsc;
};

/* The first few of what is wrong, told where it makes a result fail. */
struct notes {
	unsigned int n;
	char text[SHOWN][256];
};

static __attribute__((format(printf, 2, 3))) void note(struct notes *notes, const char *fmt, ...)
{
	va_list args;

	if (notes->n >= SHOWN)
		return;
	va_start(args, fmt);
	vsnprintf(notes->text[notes->n++], sizeof(*notes->text), fmt, args);
	va_end(args);
}

static void tell(const struct notes *notes)
{
	unsigned int i;

	for (i = 0; i < notes->n; i++)
		ksft_print_msg("%s\n", notes->text[i]);
}

static int must_ioctl(int fd, unsigned long request, const char *name, unsigned long arg)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		ksft_exit_fail_msg("%s: expected success, got %s (%d)\n", name, strerror(errno),
				   errno);
	return r;
}

#define kvm_do(fd, request, arg) must_ioctl(fd, request, #request, (unsigned long)(arg))

/* As it runs the program. */
static void vcpu_add(struct vm *vm)
{
	struct vcpu *vcpu = &vm->vcpu[vm->vcpus];
	struct kvm_regs regs = { .rflags = 2 };
	struct kvm_sregs sregs;

	vcpu->fd = kvm_do(vm->fd, KVM_CREATE_VCPU, vm->vcpus);
	vcpu->run_size = kvm_do(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	vcpu->run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED)
		ksft_exit_fail_perror("a vCPU's page");
	kvm_do(vcpu->fd, KVM_GET_SREGS, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	kvm_do(vcpu->fd, KVM_SET_SREGS, &sregs);
	kvm_do(vcpu->fd, KVM_SET_REGS, &regs);
	vm->vcpus++;
}

static void vm_start(struct vm *vm, int kvm, unsigned int vcpus)
{
	struct kvm_userspace_memory_region region = { .memory_size = PROGRAM_SIZE };

	*vm = (struct vm){ .kvm = kvm };
	vm->fd = kvm_do(kvm, KVM_CREATE_VM, 0);
	vm->memory = mmap(NULL, PROGRAM_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->memory == MAP_FAILED)
		ksft_exit_fail_perror("a VM's memory");
	memcpy(vm->memory, program, sizeof(program));
	region.userspace_addr = (unsigned long)vm->memory;
	kvm_do(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
	while (vm->vcpus < vcpus)
		vcpu_add(vm);
}

static void vm_stop(struct vm *vm)
{
	while (vm->vcpus--) {
		munmap(vm->vcpu[vm->vcpus].run, vm->vcpu[vm->vcpus].run_size);
		close(vm->vcpu[vm->vcpus].fd);
	}
	close(vm->fd);
	munmap(vm->memory, PROGRAM_SIZE);
}

/* Until it halts: KVM updates a VM's clock when a vCPU enters the guest, and not before. */
static void vcpu_run(struct vcpu *vcpu)
{
	int r;

	do {
		r = ioctl(vcpu->fd, KVM_RUN, 0);
	} while (r < 0 && errno == EINTR);
	if (r < 0)
		ksft_exit_fail_perror("KVM_RUN");
	if (vcpu->run->exit_reason != KVM_EXIT_HLT)
		ksft_exit_fail_msg("KVM_RUN: expected exit reason %d, seen %u\n", KVM_EXIT_HLT,
				   vcpu->run->exit_reason);
}

/* struct kvm_msrs with one entry. */
struct msr {
	__u32 nmsrs, pad;
	struct kvm_msr_entry entry;
};

static struct reading tsc_read(const struct vcpu *vcpu)
{
	struct msr msr = { .nmsrs = 1, .entry.index = MSR_IA32_TSC };
	struct reading r;

	r.before = ruler_ns();
	if (kvm_do(vcpu->fd, KVM_GET_MSRS, &msr) != 1)
		ksft_exit_fail_msg("KVM_GET_MSRS: expected the TSC, got nothing\n");
	r.after = ruler_ns();
	r.tsc = msr.entry.data;
	return r;
}

static struct reading tsc_write(const struct vcpu *vcpu, __u64 tsc)
{
	struct msr msr = { .nmsrs = 1, .entry = { .index = MSR_IA32_TSC, .data = tsc } };
	struct reading r = { .tsc = tsc };

	r.before = ruler_ns();
	if (kvm_do(vcpu->fd, KVM_SET_MSRS, &msr) != 1)
		ksft_exit_fail_msg("KVM_SET_MSRS: expected the TSC to be set, seen nothing\n");
	r.after = ruler_ns();
	return r;
}

static __u64 offset_read(const struct vcpu *vcpu)
{
	__u64 offset = 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (unsigned long)&offset,
	};

	kvm_do(vcpu->fd, KVM_GET_DEVICE_ATTR, &attr);
	return offset;
}

static void offset_write(const struct vcpu *vcpu, __u64 offset)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (unsigned long)&offset,
	};

	kvm_do(vcpu->fd, KVM_SET_DEVICE_ATTR, &attr);
}

static __s64 cycles(__s64 ns, __u64 khz)
{
	return (__s64)((double)ns * (double)khz / 1e6);
}

static __s64 beyond(__s64 value, __s64 least, __s64 most)
{
	return value > most ? value - most : value < least ? value - least : 0;
}

/*
 * By how much a TSC has advanced more than it can have, or less (below 0), in cycles. At least so
 * much time has passed between the two, at so many kHz at least; and the reverse.
 */
static __s64 astray(struct reading from, struct reading to, __u64 least_khz, __u64 most_khz)
{
	__s64 least_ns = (__s64)(to.before - from.after);

	return beyond((__s64)(to.tsc - from.tsc), least_ns > 0 ? cycles(least_ns, least_khz) : 0,
		      cycles((__s64)(to.after - from.before), most_khz));
}

/*
 * KVM_GET_CLOCK's distance from reference time. With a TSC of this host beside the clock it is
 * known to some ns, since the ruler has one as well; else as far as brackets tell. flags: those
 * that all readings have.
 */
static struct range clock_track(const struct vm *vm, __u32 *flags)
{
	struct range r = { .low = INT64_MIN / 2, .high = INT64_MAX / 2 };
	int i;

	*flags = ~0u;
	r.at = ruler_ns();
	for (i = 0; i < CLOCK_READINGS; i++) {
		__u64 before, after, tsc_before, tsc_after;
		struct kvm_clock_data data = { 0 };
		__s64 low, high;

		tsc_before = ruler_tsc(&before);
		kvm_do(vm->fd, KVM_GET_CLOCK, &data);
		tsc_after = ruler_tsc(&after);
		low = (__s64)(data.clock - after) - ROUNDING_NS;
		high = (__s64)(data.clock - before) + ROUNDING_NS;
		if (data.flags & KVM_CLOCK_HOST_TSC) {
			double part = (double)(__s64)(data.host_tsc - tsc_before) /
				      (double)(__s64)(tsc_after - tsc_before);
			__s64 ns = (__s64)(data.clock - before) -
				   (__s64)(part * (double)(after - before));

			/* A TSC that was not read in between makes the range empty. */
			if (ns - ROUNDING_NS > low)
				low = ns - ROUNDING_NS;
			if (ns + ROUNDING_NS < high)
				high = ns + ROUNDING_NS;
		}
		if (low > r.low)
			r.low = low;
		if (high < r.high)
			r.high = high;
		*flags &= data.flags;
	}
	return r;
}

/* Inherited: who does something all the time shall not keep the change waiting. */
static void not_urgent(void)
{
	setpriority(PRIO_PROCESS, 0, 0);
}

/* Who reads all the time, while the TSC changes as well: both TSCs by turns, and the clock. */
struct watch {
	const struct vm *vm;
	pthread_t thread;
	atomic_bool stop;
	__u64 readings, backward, far, worst;
	__u64 clock_readings, clock_backward, clock_worst;
	__u64 stable;
};

static void *watch_main(void *arg)
{
	struct reading last = { 0 }, now;
	struct watch *w = arg;
	__u64 clock = 0;

	not_urgent();
	while (!atomic_load(&w->stop)) {
		struct kvm_clock_data data = { 0 };

		now = tsc_read(&w->vm->vcpu[w->readings++ % FIRST_VCPUS]);
		if (last.after) {
			__s64 more = astray(last, now, LEAST_KHZ, MOST_KHZ);

			if ((__s64)(now.tsc - last.tsc) < 0) {
				w->backward++;
				if (last.tsc - now.tsc > w->worst)
					w->worst = last.tsc - now.tsc;
			}
			if (llabs(more) > cycles(ASTRAY_NS, LEAST_KHZ))
				w->far++;
		}
		last = now;
		kvm_do(w->vm->fd, KVM_GET_CLOCK, &data);
		w->clock_readings++;
		if (data.clock < clock) {
			w->clock_backward++;
			if (clock - data.clock > w->clock_worst)
				w->clock_worst = clock - data.clock;
		}
		clock = data.clock;
		w->stable += !!(data.flags & KVM_CLOCK_TSC_STABLE);
	}
	return NULL;
}

/* Who writes the TSCs of two vCPUs all the time, while the TSC changes as well. */
struct writer {
	const struct vm *vm;
	pthread_t thread;
	atomic_bool stop;
	__u64 writes, astray, worst;
	__u64 compared, apart;
	struct notes why;
};

static void find_astray(struct writer *w, struct reading from, struct reading to)
{
	__s64 more = astray(from, to, LEAST_KHZ, MOST_KHZ);

	if (llabs(more) <= cycles(ASTRAY_NS, LEAST_KHZ))
		return;
	w->astray++;
	if ((__u64)llabs(more) > w->worst)
		w->worst = llabs(more);
	note(&w->why, "a TSC that was written: expected %llu and what %llu ns more make, seen %llu",
	     from.tsc, to.after - from.before, to.tsc);
}

/*
 * The offset of one after the other is read, which a change may move in between; a reading of the
 * TSC waits for its end.
 */
static bool in_step(const struct vm *vm, unsigned int a, unsigned int b)
{
	int tries;

	for (tries = 0; tries < 3; tries++) {
		if (offset_read(&vm->vcpu[a]) == offset_read(&vm->vcpu[b]))
			return true;
		tsc_read(&vm->vcpu[a]);
	}
	return false;
}

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	const struct vcpu *vcpu = w->vm->vcpu;
	struct reading now, first, second, last = { 0 };
	unsigned int turn;

	not_urgent();
	for (turn = 0; !atomic_load(&w->stop); turn++) {
		__u64 tsc;

		/* What it is, where nobody has written; then another one: there and back. */
		now = tsc_read(&vcpu[0]);
		if (turn)
			find_astray(w, last, now);
		tsc = now.tsc;
		if (turn % 4 == 1)
			tsc += FAR_CYCLES;
		if (turn % 4 == 3)
			tsc -= FAR_CYCLES;
		first = tsc_write(&vcpu[0], tsc);
		second = tsc_write(&vcpu[1], tsc);
		/* Who writes what it is, to KVM, has not set it back to when it was read. */
		first.before = now.before;
		w->writes += 2;
		last = tsc_read(&vcpu[0]);
		find_astray(w, first, last);
		/* KVM takes this one for the same as the first, unless it is late. */
		if (second.after - first.before > TOGETHER_NS)
			continue;
		find_astray(w, first, tsc_read(&vcpu[1]));
		w->compared++;
		if (!in_step(w->vm, 0, 1)) {
			w->apart++;
			note(&w->why,
			     "both TSCs were written as %llu: expected one offset, seen %llu and %llu",
			     tsc, offset_read(&vcpu[0]), offset_read(&vcpu[1]));
		}
	}
	return NULL;
}

static void start(pthread_t *thread, void *(*main)(void *arg), void *arg)
{
	int err = pthread_create(thread, NULL, main, arg);

	if (err)
		ksft_exit_fail_msg("a thread: %s\n", strerror(err));
}

/* The switch that has just been: from which frequency to which. */
struct change {
	__u64 before_khz, khz;
	__u64 at;	/* the ruler's ns */
	__s64 jump;
};

/* False if it is not acknowledged. */
static bool migrate(struct change *c)
{
	__u32 generation = ruler_generation();

	c->before_khz = c->khz;
	c->khz = somewhere("");
	if (!wait_for_switch(generation, SWITCH_SECONDS)) {
		ksft_print_msg("to %llu kHz: not acknowledged in %d s\n", c->khz, SWITCH_SECONDS);
		return false;
	}
	must("trace count=1");
	c->at = testhost_value("hostns");
	c->jump = testhost_value("tsc_after") - testhost_value("tsc_before");
	return true;
}

/* What the migrations have shown. */
struct found {
	unsigned int done;
	__u64 created_khz;

	unsigned int within, back, far;	/* the guest's TSC */
	__s64 tsc_low, tsc_high;	/* ... beyond its limits, cycles */
	unsigned int apart, moved, not_moved;
	unsigned int set, set_astray;
	unsigned int added, added_apart, added_khz;
	unsigned int made, made_khz;

	unsigned int stable, unstable, unasked_stable;
	unsigned int judged, wide, over;
	__s64 clock_low, clock_high;
	__s64 worst;
	double allowed;
	struct range first, last;

	struct {
		struct notes tsc, apart, moved, set, added, khz, made, clock, stable;
	} why;
};

static void judge_tsc(struct found *f, const struct change *c, struct reading before,
		      struct reading after)
{
	__u64 slower = c->before_khz < c->khz ? c->before_khz : c->khz;
	__u64 faster = c->before_khz + c->khz - slower;
	__s64 advance = (__s64)(after.tsc - before.tsc), least, most, more;

	least = cycles((__s64)(c->at - before.after), c->before_khz) +
		cycles((__s64)(after.before - c->at), slower);
	most = cycles((__s64)(c->at - before.before), c->before_khz) +
	       cycles((__s64)(after.after - c->at), faster);
	more = beyond(advance, least, most);
	if (more < f->tsc_low)
		f->tsc_low = more;
	if (more > f->tsc_high)
		f->tsc_high = more;
	if (advance < 0)
		f->back++;
	if (llabs(more) <= cycles(SLACK_NS, faster))
		f->within++;
	/* No CPU is away for longer than it all took. */
	if (llabs(more) <= cycles((__s64)(after.after - before.before) + SLACK_NS, faster))
		return;
	f->far++;
	note(&f->why.tsc,
	     "migration %u from %llu to %llu kHz: the guest's TSC: expected %lld to %lld cycles more, seen %lld",
	     f->done, c->before_khz, c->khz, least, most, advance);
}

static void judge_offsets(struct found *f, const struct vm *vm, const struct change *c,
			  __u64 before, __u64 ns)
{
	__s64 moved = (__s64)(offset_read(&vm->vcpu[0]) - before);
	unsigned int i;

	for (i = 1; i < vm->vcpus; i++) {
		if (in_step(vm, 0, i))
			continue;
		f->apart++;
		note(&f->why.apart,
		     "migration %u: expected one offset, seen %llu and of vCPU %u %llu", f->done,
		     offset_read(&vm->vcpu[0]), i, offset_read(&vm->vcpu[i]));
	}
	/* By what the TSC does at another frequency until KVM is told, as well. */
	if (llabs(moved + c->jump) <= cycles((__s64)ns + SLACK_NS, MOST_KHZ)) {
		f->moved++;
		return;
	}
	f->not_moved++;
	note(&f->why.moved, "migration %u: the offset: expected %lld more, seen %lld", f->done,
	     -c->jump, moved);
}

static void judge_clock(struct found *f, struct range before, struct range after, double drift,
			const char *when)
{
	struct range step = range_less(after, before);
	__s64 more = range_beyond(step, 0) - (__s64)drift;

	if (range_width(before) < 0 || range_width(after) < 0) {
		f->over++;
		note(&f->why.clock,
		     "migration %u, %s: KVM_GET_CLOCK: no distance from reference time fits, %lld ns wide and %lld",
		     f->done, when, range_width(before), range_width(after));
		return;
	}
	if (range_width(before) > WIDE_NS || range_width(after) > WIDE_NS) {
		f->wide++;
		return;
	}
	f->judged++;
	if (range_middle(step) < f->clock_low)
		f->clock_low = range_middle(step);
	if (range_middle(step) > f->clock_high)
		f->clock_high = range_middle(step);
	if (more > f->worst)
		f->worst = more;
	if (more <= BOUND_NS)
		return;
	f->over++;
	note(&f->why.clock,
	     "migration %u, %s: KVM_GET_CLOCK: expected %d ns at most, seen %lld to %lld", f->done,
	     when, BOUND_NS, step.low, step.high);
}

/* The clock is stable again as soon as a vCPU has run. */
static struct range clock_stable(struct found *f, const struct vm *vm, const struct vcpu *vcpu)
{
	struct range r;
	__u32 flags;

	vcpu_run((struct vcpu *)vcpu);
	r = clock_track(vm, &flags);
	if (flags & KVM_CLOCK_TSC_STABLE) {
		f->stable++;
	} else {
		f->unstable++;
		note(&f->why.stable,
		     "migration %u, with %u vCPUs: KVM_GET_CLOCK: expected it stable, seen flags %#x",
		     f->done, vm->vcpus, flags);
	}
	return r;
}

/* One more, whose frequency is that of its siblings, and of the VM's beginning. */
static void add_sibling(struct found *f, struct vm *vm)
{
	__u64 expected = kvm_do(vm->vcpu[0].fd, KVM_GET_TSC_KHZ, 0), seen;
	const struct vcpu *vcpu = &vm->vcpu[vm->vcpus];

	vcpu_add(vm);
	f->added++;
	if (!in_step(vm, 0, vm->vcpus - 1)) {
		f->added_apart++;
		note(&f->why.added,
		     "migration %u: vCPU %u is added: expected offset %llu, seen %llu", f->done,
		     vm->vcpus - 1, offset_read(&vm->vcpu[0]), offset_read(vcpu));
	}
	seen = kvm_do(vcpu->fd, KVM_GET_TSC_KHZ, 0);
	if (seen != expected || expected != f->created_khz) {
		f->added_khz++;
		note(&f->why.khz,
		     "migration %u: vCPU %u is added: expected %llu kHz, of its sibling %llu, seen %llu",
		     f->done, vm->vcpus - 1, f->created_khz, expected, seen);
	}
	clock_stable(f, vm, vcpu);
}

/* At a frequency that is lower than the VM's first, then at a higher one, then at a lower one. */
static bool is_due(const struct found *f, __u64 khz, unsigned int loops)
{
	bool fits = f->added & 1 ? khz > f->created_khz : khz < f->created_khz;

	if (f->added == ADDED_VCPUS)
		return false;
	return f->done + 1 == loops ||
	       (fits && f->done + 1 >= (f->added + 1) * loops / (ADDED_VCPUS + 1));
}

static void make_another(struct found *f, int kvm, __u64 khz)
{
	struct vm vm;
	__u64 seen;

	vm_start(&vm, kvm, 1);
	seen = kvm_do(vm.vcpu[0].fd, KVM_GET_TSC_KHZ, 0);
	f->made++;
	if (llabs((__s64)(seen - khz)) > (__s64)(khz / KHZ_FRACTION)) {
		f->made_khz++;
		note(&f->why.made, "migration %u: a new VM: expected %llu kHz, seen %llu", f->done,
		     khz, seen);
	}
	vm_stop(&vm);
}

/* All offsets are set to what they are, between two changes. */
static void set_offsets(struct found *f, const struct vm *vm, __u64 khz)
{
	struct reading before = tsc_read(&vm->vcpu[0]), after;
	__u64 offset = offset_read(&vm->vcpu[0]), seen;
	unsigned int i;
	__s64 more;

	for (i = 0; i < vm->vcpus; i++)
		offset_write(&vm->vcpu[i], offset);
	after = tsc_read(&vm->vcpu[vm->vcpus - 1]);
	clock_stable(f, vm, &vm->vcpu[0]);
	f->set++;
	more = astray(before, after, khz, khz);
	for (i = 0; i < vm->vcpus - 1; i++)
		if (offset_read(&vm->vcpu[i]) != offset)
			break;
	seen = offset_read(&vm->vcpu[i]);
	if (seen == offset && llabs(more) <= cycles(SLACK_NS, khz))
		return;
	f->set_astray++;
	note(&f->why.set,
	     "migration %u: all offsets are set to %llu: expected no change, seen vCPU %u at %llu, and the TSC of the last one off by %lld cycles",
	     f->done, offset, i, seen, more);
}

static void one(struct found *f, struct vm *vm, struct change *change, unsigned int loops)
{
	double drift, q = quantisation(change->khz), q_after;
	struct reading before, after;
	struct range first, unasked, last;
	__u64 offset;
	__u32 flags;

	first = clock_track(vm, &flags);
	if (!f->done)
		f->first = first;
	offset = offset_read(&vm->vcpu[0]);
	before = tsc_read(&vm->vcpu[f->done % vm->vcpus]);
	if (!migrate(change))
		ksft_exit_fail_msg("migration %u of %u\n", f->done, loops);
	q_after = quantisation(change->khz);
	/* Waits for the end of the change, where offsets do not. */
	after = tsc_read(&vm->vcpu[f->done % vm->vcpus]);
	judge_tsc(f, change, before, after);
	judge_offsets(f, vm, change, offset, after.after - before.before);

	unasked = clock_track(vm, &flags);
	f->unasked_stable += !!(flags & KVM_CLOCK_TSC_STABLE);
	last = clock_stable(f, vm, &vm->vcpu[f->done % vm->vcpus]);
	drift = (last.at - first.at) * (q + q_after);
	judge_clock(f, first, unasked, drift, "before a vCPU runs");
	judge_clock(f, first, last, drift, "when a vCPU has run");
	f->last = last;

	if (is_due(f, change->khz, loops))
		add_sibling(f, vm);
	if (f->done % 4 == 0)
		make_another(f, vm->kvm, change->khz);
	if (f->done % 4 == 2)
		set_offsets(f, vm, change->khz);
	f->done++;
	sleep_ns(below(DWELL_NS));
	f->allowed += (ruler_ns() - first.at) * (q > q_after ? q : q_after);
}

static void results_tsc(const struct found *f, const struct watch *w)
{
	if (w->backward || w->far || f->back)
		ksft_print_msg("expected no step, seen %llu back and %llu of more than %lld s in %llu readings, %u migrations back, the worst by %llu cycles\n",
			       w->backward, w->far, ASTRAY_NS / NSEC_PER_SEC, w->readings, f->back,
			       w->worst);
	ksft_test_result(w->readings && !w->backward && !w->far && !f->back,
			 "the guest's TSCs, read all the time: no step in %llu readings\n",
			 w->readings);

	tell(&f->why.tsc);
	ksft_print_msg("beyond what the two frequencies make of the time: expected %d us in %d of 100 at most, seen in %u of %u; %lld to %lld cycles\n",
		       SLACK_NS / 1000, 100 - GOOD_PERCENT, f->done - f->within, f->done,
		       f->tsc_low, f->tsc_high);
	ksft_test_result(f->done && !f->far && f->within >= f->done * GOOD_PERCENT / 100,
			 "the guest's TSC goes on through %u migrations, to %d us in %u\n", f->done,
			 SLACK_NS / 1000, f->within);

	tell(&f->why.apart);
	ksft_test_result(f->done && !f->apart, "the offsets of all vCPUs are the same\n");
	tell(&f->why.moved);
	ksft_test_result(f->done && !f->not_moved,
			 "they move by what the host's TSC jumps, %u times\n", f->moved);
	tell(&f->why.set);
	ksft_test_result(f->set && !f->set_astray, "they can be set to what they are, %u times\n",
			 f->set);
	tell(&f->why.added);
	ksft_test_result(f->added && !f->added_apart,
			 "%u vCPUs are added, in step with the others\n", f->added);
	tell(&f->why.khz);
	ksft_test_result(f->added && !f->added_khz, "... and with their frequency, %llu kHz\n",
			 f->created_khz);
	tell(&f->why.made);
	ksft_test_result(f->made && !f->made_khz,
			 "%u new VMs have the frequency of the time, to 0.1 %%\n", f->made);
}

static void results_clock(const struct found *f, const struct watch *w)
{
	struct range total = range_less(f->last, f->first);
	__s64 more = range_beyond(total, 0) - (__s64)f->allowed;

	if (w->clock_backward)
		ksft_print_msg("expected no step back, seen %llu, the worst by %llu ns\n",
			       w->clock_backward, w->clock_worst);
	ksft_test_result(w->clock_readings && !w->clock_backward,
			 "KVM_GET_CLOCK: no step back in %llu readings, %llu of them stable\n",
			 w->clock_readings, w->stable);
	tell(&f->why.stable);
	ksft_test_result(f->stable && !f->unstable,
			 "KVM_GET_CLOCK is stable when a vCPU has run: %u of %u; before, after %u of %u migrations\n",
			 f->stable, f->stable + f->unstable, f->unasked_stable, f->done);
	tell(&f->why.clock);
	ksft_print_msg("KVM_GET_CLOCK in each migration: %lld to %lld ns, %u judged, %u not; in all %lld to %lld ns, rate error %.0f\n",
		       f->judged ? f->clock_low : 0, f->judged ? f->clock_high : 0, f->judged,
		       f->wide, total.low, total.high, f->allowed);
	ksft_test_result(!f->over && f->judged >= 2 * f->done * GOOD_PERCENT / 100 &&
			 more <= BOUND_NS,
			 "KVM_GET_CLOCK stays with the host's reference, to %d ns and the rate error: worst %lld, in all %lld\n",
			 BOUND_NS, f->judged ? f->worst : 0, more > 0 ? more : 0);
}

static void run_through(int kvm, unsigned int loops, struct change *change)
{
	struct found f = {
		.clock_low = INT64_MAX, .clock_high = INT64_MIN,
		.worst = INT64_MIN,
	};
	struct watch watch = { 0 };
	struct vm vm;
	unsigned int i;

	vm_start(&vm, kvm, FIRST_VCPUS);
	f.created_khz = kvm_do(vm.vcpu[0].fd, KVM_GET_TSC_KHZ, 0);
	for (i = 0; i < vm.vcpus; i++)
		vcpu_run(&vm.vcpu[i]);
	watch.vm = &vm;
	start(&watch.thread, watch_main, &watch);
	while (f.done < loops)
		one(&f, &vm, change, loops);
	atomic_store(&watch.stop, true);
	pthread_join(watch.thread, NULL);
	results_tsc(&f, &watch);
	results_clock(&f, &watch);
	vm_stop(&vm);
}

static void run_written(int kvm, unsigned int loops, struct change *change)
{
	struct writer writer = { 0 };
	unsigned int done;
	struct vm vm;

	vm_start(&vm, kvm, 2);
	writer.vm = &vm;
	start(&writer.thread, writer_main, &writer);
	for (done = 0; done < loops && migrate(change); done++)
		sleep_ns(below(DWELL_NS));
	atomic_store(&writer.stop, true);
	pthread_join(writer.thread, NULL);
	tell(&writer.why);
	if (writer.astray)
		ksft_print_msg("expected none astray, seen %llu, by %llu cycles at most\n",
			       writer.astray, writer.worst);
	ksft_test_result(done == loops && writer.writes && !writer.astray,
			 "%llu times a TSC is written, through %u migrations, and is where it was written\n",
			 writer.writes, done);
	if (writer.apart)
		ksft_print_msg("expected all in step, seen %llu apart\n", writer.apart);
	ksft_test_result(writer.compared && !writer.apart,
			 "two TSCs that are written alike are in step, %llu times\n",
			 writer.compared);
	vm_stop(&vm);
}

int main(int argc, char **argv)
{
	struct options options = { .loops = DEFAULT_MIGRATIONS };
	struct change change = { 0 };
	int kvm;

	options_parse(argc, argv, &options);
	ksft_print_header();
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		ksft_exit_skip("/dev/kvm: %s\n", strerror(errno));
	require_update(&options);
	if (!counts_tsc(&options))
		ksft_exit_skip("the clock does not count the TSC\n");
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_ATTRIBUTES) <= 0)
		ksft_exit_skip("KVM tells no TSC offset\n");
	if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0)
		ksft_exit_skip("KVM scales guests' TSCs\n");
	ksft_set_plan(RESULTS);
	be_urgent();
	/*
	 * The TSC's jumps are about its home, of which the guests' have no part. The first VM's
	 * frequency is above the mean, so that its TSCs fall behind what KVM would make them catch up
	 * with, and below the highest.
	 */
	do {
		if (!migrate(&change))
			ksft_exit_fail_msg("the first migrations\n");
	} while (change.khz < MOST_KHZ / 8 * 6 || change.khz > MOST_KHZ / 8 * 7);
	run_through(kvm, options.loops, &change);
	run_written(kvm, (options.loops + 3) / 4, &change);
	result_still_current(&options);
	ksft_finished();
}
