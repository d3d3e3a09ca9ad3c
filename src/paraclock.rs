// SPDX-License-Identifier: GPL-2.0

//! paraclock: a clocksource for guests that is fed by the hypervisor.
//!
//! One clocksource, `paraclock`, in rooms of their own:
//!
//! - [`logic`]: what can be decided without a kernel: page layouts, read protocols, arithmetic;
//! - [`abstractions`]: the kernel, safe to use; all `unsafe` is there;
//! - [`backend`]: the hosts' clocks;
//! - [`clock`]: the callbacks of the timekeeping core, of CPU hotplug and of shutdown;
//! - [`control`]: in which mode the clock is, and how it gets from one to another;
//! - [`hotplug`]: whether the TSCs of all CPUs are in step, as CPUs come and go;
//! - [`params`] and [`status`]: the administrator's side.
//!
//! See `Documentation/` for the protocols and for how it is tested.

mod abstractions;
mod backend;
mod bindings;
mod clock;
mod control;
mod hotplug;
#[allow(dead_code, unreachable_pub)]
mod logic;
mod params;
mod status;

use abstractions::{
    cpuhp,
    debugfs,
    param,
    param::writable_param,
    periodic::Periodic,
    pm,
    reenlightenment,
    shutdown,
    tsc, //
};
use backend::{
    Backend,
    Hosts, //
};
use clock::Clock;
use control::{
    Control,
    Follower,
    Poll, //
};
use hotplug::{
    Cpus,
    Tscs, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use logic::options;
use params::{
    ModeOption,
    ReliableOption, //
};
use status::Status;

module! {
    type: Paraclock,
    name: "paraclock",
    authors: ["The paraclock developers"],
    description: "Paravirtual clock of KVM and Hyper-V guests",
    license: "GPL",
    params: {
        backend: crate::params::BackendOption {
            default: crate::params::BackendOption::Auto,
            description: "Whose clock to read: auto, kvm or hyperv",
            perm: 0o444,
        },
        rating: i32 {
            default: 0,
            description: "Rating of the clocksource, 1 to 599; 0: above the C clock's",
            perm: 0o444,
        },
    },
}

writable_param! {
    MODE: params::ModeOption = params::ModeOption::Auto,
    "mode",
    "What to read: auto, tsc, page or msr"
}

writable_param! {
    TSC_RELIABLE: params::ReliableOption = params::ReliableOption::Auto,
    "tsc_reliable",
    "Whether the TSC is in step without being checked: auto, always or never"
}

/// The module.
struct Paraclock {
    _running: Running,
}

/// The clock that was chosen, at work.
enum Running {
    Kvm {
        _clock: Pin<KBox<Parts<backend::kvm::Clock>>>,
    },
    Hyperv {
        _clock: Pin<KBox<Parts<backend::hyperv::Clock>>>,
    },
}

/// When to look at the TSCs for the first time.
const VERIFY_MS: u32 = 1000 * logic::tsc_adjust::VERIFY_PERIOD_S;

/// Takes part when the host changes the TSC.
type Switch<B> = reenlightenment::Registration<Follower<B>>;

/// What a clock consists of.
///
/// The fields are dropped in this order: first nobody can ask any more, then nobody changes the
/// mode, then nobody can read, then the host stops writing, at the end the memory goes.
#[pin_data]
struct Parts<B: Backend> {
    #[pin]
    status: debugfs::File<Status<B>, Paraclock>,
    #[pin]
    parameter: param::Registration<ModeOption, Arc<Control<B>>>,
    #[pin]
    reliable: param::Registration<ReliableOption, Arc<Tscs<B>>>,
    #[pin]
    pm: pm::Registration<Arc<Control<B>>>,
    /// Has begun where mode `tsc` can come about. `switch` has it as well, and it goes with that.
    poll: Arc<Poll<B>>,
    /// The look at the TSCs once a second. Has begun where there is anything to be looked at.
    watch: Pin<KBox<Periodic<Arc<Tscs<B>>>>>,
    stop: Stop<B>,
    /// Where the host changes the TSC on request only.
    switch: Option<Pin<KBox<Switch<B>>>>,
    control: Arc<Control<B>>,
    #[pin]
    shutdown: shutdown::Registration<Arc<Clock<B>>>,
    #[pin]
    cpuhp: cpuhp::Registration<Cpus<B>>,
}

/// Leaves mode `tsc` when it is dropped, before the host may change the TSC without asking.
struct Stop<B: Backend>(Arc<Control<B>>);

impl<B: Backend> Drop for Stop<B> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl<B: Backend> Parts<B> {
    /// Sets a clock to work.
    ///
    /// # Errors
    ///
    /// Those of the registrations, and of [`Backend::check`].
    fn start(
        module: &'static ThisModule,
        backend: B,
        rating: i32,
        wanted: ModeOption,
    ) -> Result<Pin<KBox<Self>>> {
        let clock = Arc::new(Clock::new(backend, rating), GFP_KERNEL)?;
        let tscs = Tscs::new(clock.clone(), TSC_RELIABLE.value())?;
        let (of_cpuhp, of_shutdown) = (Cpus::new(clock.clone(), tscs.clone())?, clock.clone());
        KBox::pin_init(
            try_pin_init!(Self {
                // Registers the pages on all CPUs.
                cpuhp <- cpuhp::Registration::new(cpuhp::State::PVCLOCK, of_cpuhp),
                shutdown <- shutdown::Registration::new(of_shutdown),
                control: {
                    let page_vdso = clock.backend.check()?;
                    Control::new(module, clock, tscs, page_vdso, wanted)?
                },
                poll: Arc::pin_init(Periodic::new(control.clone()), GFP_KERNEL)?,
                switch: arm(control, poll),
                stop: Stop(control.clone()),
                watch: KBox::pin_init(Periodic::new(control.tscs.clone()), GFP_KERNEL)?,
                _: {
                    if control.start(switch.is_some()) {
                        poll.begin(0);
                    }
                    if control.tscs.is_at_work() {
                        watch.begin(VERIFY_MS);
                    }
                },
                pm <- pm::Registration::new(control.clone()),
                reliable <- param::Registration::new(&TSC_RELIABLE, control.tscs.clone()),
                parameter <- param::Registration::new(&MODE, control.clone()),
                status <- debugfs::File::new(
                    c"paraclock",
                    c"status",
                    Status { control: control.clone() },
                ),
                _: {
                    pr_info!(
                        "clocksource paraclock: backend {}, mode {}, pages {}, vDSO {}, rating {}\n",
                        B::NAME.name(),
                        control.clock.mode().name(),
                        control.clock.backend.owner(),
                        control.vdso().name(),
                        control.clock.rating
                    );
                },
            }? Error),
            GFP_KERNEL,
        )
    }
}

/// Asks the host to change the TSC on request only, where it offers that.
fn arm<B: Backend>(control: &Arc<Control<B>>, poll: &Arc<Poll<B>>) -> Option<Pin<KBox<Switch<B>>>> {
    if !control.clock.backend.offers_reenlightenment() {
        return None;
    }
    let follower = Follower {
        control: control.clone(),
        poll: poll.clone(),
    };
    KBox::pin_init(Switch::new(follower), GFP_KERNEL)
        .inspect_err(|error| {
            pr_info!(
                "no reenlightenment, though the host offers it: error {}\n",
                error.to_errno()
            );
        })
        .ok()
}

/// Reads the parameter `rating`; `None` where there is a default to be taken.
fn rating() -> Result<Option<i32>> {
    let rating = *module_parameters::rating.value_ref();
    if rating == 0 {
        return Ok(None);
    }
    if !options::RATINGS.contains(&rating) {
        pr_err!(
            "rating={}: not between {} and {}, and not 0\n",
            rating,
            options::RATINGS.start(),
            options::RATINGS.end()
        );
        return Err(EINVAL);
    }
    Ok(Some(rating))
}

/// Reads the parameters `backend` and `mode`, and decides what to read on this host.
fn choose(hosts: &Hosts, mode: ModeOption) -> Result<(options::Backend, options::Mode)> {
    let backend = *module_parameters::backend.value_ref();
    let refusal = match options::resolve(backend, mode, &hosts.offer()) {
        Ok(choice) => return Ok(choice),
        Err(refusal) => refusal,
    };
    if refusal == options::Refusal::Unsupported {
        pr_err!(
            "mode={}: not supported by backend {}; there are tsc, page, and with hyperv msr\n",
            mode.name(),
            backend.name()
        );
        return Err(EINVAL);
    }
    if backend.allows(options::Backend::Kvm) {
        match &hosts.kvm {
            Err(absent) => pr_err!("no KVM clock: {}\n", absent),
            Ok(_) if mode == ModeOption::Tsc => pr_err!(
                "no KVM clock in mode tsc: the host does not offer an invariant TSC with a stable \
                 clock; QEMU's option is +invtsc\n"
            ),
            Ok(_) => {}
        }
    }
    if backend.allows(options::Backend::Hyperv) {
        match &hosts.hyperv {
            Err(absent) => pr_err!("no Hyper-V clock: {}\n", absent),
            Ok(host) => pr_err!(
                "no Hyper-V clock in mode {}: {}\n",
                mode.name(),
                host.missing(mode)
            ),
        }
    }
    Err(ENODEV)
}

impl Running {
    /// Chooses a clock, and sets it to work.
    ///
    /// # Errors
    ///
    /// Each with a log line: `EINVAL` for a parameter, `ENODEV` where the host does not offer what
    /// is asked for, `EIO` where it is at fault; `ENOMEM`, and those of the registrations.
    fn start(module: &'static ThisModule) -> Result<Self> {
        let rating = rating()?;
        let hosts = Hosts::find().ok_or_else(|| {
            pr_err!("no clock: this machine is not a guest (CPUID has no hypervisor bit)\n");
            ENODEV
        })?;
        let wanted = MODE.value();
        let (backend, base) = choose(&hosts, wanted)?;
        let best = if wanted.allows_tsc() && hosts.offer().has_tsc(backend) {
            options::Mode::Tsc
        } else {
            base
        };
        let rating =
            |invariant| rating.unwrap_or_else(|| options::default_rating(backend, best, invariant));
        match (backend, hosts) {
            (options::Backend::Kvm, Hosts { kvm: Ok(host), .. }) => {
                let rating = rating(tsc::is_invariant());
                Ok(Self::Kvm {
                    _clock: Parts::start(module, host.adopt_or_allocate()?, rating, wanted)?,
                })
            }
            (
                options::Backend::Hyperv,
                Hosts {
                    hyperv: Ok(host), ..
                },
            ) => {
                let rating = rating(host.has_tsc_invariant());
                let clock = match base {
                    options::Mode::Msr => host.counter_alone(),
                    _ => host.adopt_or_claim()?,
                };
                Ok(Self::Hyperv {
                    _clock: Parts::start(module, clock, rating, wanted)?,
                })
            }
            // Not reached: only what is offered is chosen.
            _ => Err(ENODEV),
        }
    }
}

impl kernel::Module for Paraclock {
    fn init(module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _running: Running::start(module)?,
        })
    }
}
