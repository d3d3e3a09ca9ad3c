// SPDX-License-Identifier: GPL-2.0

//! paraclock: a clocksource for guests that is fed by the hypervisor.
//!
//! One clocksource, `paraclock`, in rooms of their own:
//!
//! - [`logic`]: what can be decided without a kernel: page layouts, read protocols, arithmetic;
//! - [`abstractions`]: the kernel, safe to use; all `unsafe` is there;
//! - [`backend`]: the hosts' clocks;
//! - [`clock`]: the callbacks of the timekeeping core, of CPU hotplug and of shutdown;
//! - [`params`] and [`status`]: the administrator's side.
//!
//! See `Documentation/` for the protocols and for how it is tested.

mod abstractions;
mod backend;
mod bindings;
mod clock;
#[allow(dead_code, unreachable_pub)]
mod logic;
mod params;
mod status;

use abstractions::{
    clocksource,
    cpuhp,
    debugfs,
    shutdown,
    tsc, //
};
use backend::{
    Backend,
    Hosts, //
};
use clock::{
    ByCounter,
    ByPage,
    Clock, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use logic::options;
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
        mode: crate::params::ModeOption {
            default: crate::params::ModeOption::Auto,
            description: "What to read: auto, tsc, page or msr",
            perm: 0o444,
        },
        rating: i32 {
            default: 0,
            description: "Rating of the clocksource, 1 to 599; 0: above the C clock's",
            perm: 0o444,
        },
    },
}

/// The module.
struct Paraclock {
    _running: Running,
}

/// The clock that was chosen, at work.
enum Running {
    Kvm {
        _clock: Pin<KBox<Parts<backend::kvm::Clock, ByPage<backend::kvm::Clock>>>>,
    },
    HypervPage {
        _clock: Pin<KBox<Parts<backend::hyperv::Clock, ByPage<backend::hyperv::Clock>>>>,
    },
    HypervMsr {
        _clock: Pin<KBox<Parts<backend::hyperv::Clock, ByCounter<backend::hyperv::Clock>>>>,
    },
}

/// What a clock consists of: its readers are those of `O`.
///
/// The fields are dropped in this order: first nobody can ask any more, then nobody can read, then
/// the host stops writing, at the end the memory goes.
#[pin_data]
struct Parts<B: Backend, O: clocksource::Operations> {
    #[pin]
    status: debugfs::File<Status<B>, Paraclock>,
    #[pin]
    clocksource: clocksource::Registration<O>,
    vdso: clocksource::VdsoClockMode,
    #[pin]
    shutdown: shutdown::Registration<Arc<Clock<B>>>,
    #[pin]
    cpuhp: cpuhp::Registration<Arc<Clock<B>>>,
}

impl<B: Backend, O: clocksource::Operations> Parts<B, O> {
    /// Sets a clock to work.
    ///
    /// # Errors
    ///
    /// Those of the registrations, and of [`Backend::check`].
    fn start(
        module: &'static ThisModule,
        backend: B,
        rating: i32,
        readers: fn(Arc<Clock<B>>) -> O,
    ) -> Result<Pin<KBox<Self>>> {
        let clock = Arc::new(Clock::new(backend, rating), GFP_KERNEL)?;
        let (of_cpuhp, of_shutdown, of_status) = (clock.clone(), clock.clone(), clock.clone());
        let of_clocksource = readers(clock.clone());
        KBox::pin_init(
            try_pin_init!(Self {
                // Registers the pages on all CPUs.
                cpuhp <- cpuhp::Registration::new(cpuhp::State::PVCLOCK, of_cpuhp),
                shutdown <- shutdown::Registration::new(of_shutdown),
                vdso: clock.backend.check()?,
                clocksource <- clocksource::Registration::new(
                    module,
                    clock.config(*vdso),
                    of_clocksource,
                ),
                status <- debugfs::File::new(
                    c"paraclock",
                    c"status",
                    Status { clock: of_status, vdso: *vdso },
                ),
                _: {
                    pr_info!(
                        "clocksource paraclock: backend {}, mode {}, pages {}, vDSO {}, rating {}\n",
                        B::NAME.name(),
                        clock.backend.mode().name(),
                        clock.backend.owner(),
                        vdso.name(),
                        clock.rating
                    );
                },
            }? Error),
            GFP_KERNEL,
        )
    }
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
fn choose(hosts: &Hosts) -> Result<(options::Backend, options::Mode)> {
    let (backend, mode) = (
        *module_parameters::backend.value_ref(),
        *module_parameters::mode.value_ref(),
    );
    let refusal = match options::resolve(backend, mode, &hosts.offer()) {
        Ok(choice) => return Ok(choice),
        Err(refusal) => refusal,
    };
    if refusal == options::Refusal::Unsupported {
        pr_err!(
            "mode={}: not supported by backend {}; there are page, and with hyperv msr\n",
            mode.name(),
            backend.name()
        );
        return Err(EINVAL);
    }
    if let (true, Err(absent)) = (backend.allows(options::Backend::Kvm), &hosts.kvm) {
        pr_err!("no KVM clock: {}\n", absent);
    }
    if backend.allows(options::Backend::Hyperv) {
        match &hosts.hyperv {
            Err(absent) => pr_err!("no Hyper-V clock: {}\n", absent),
            Ok(host) => pr_err!(
                "no Hyper-V clock in mode {}: {}\n",
                mode.name(),
                host.missing()
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
        let (backend, mode) = choose(&hosts)?;
        match (backend, hosts) {
            (options::Backend::Kvm, Hosts { kvm: Ok(host), .. }) => {
                let rating = rating
                    .unwrap_or_else(|| options::default_rating(backend, mode, tsc::is_invariant()));
                Ok(Self::Kvm {
                    _clock: Parts::start(module, host.adopt_or_allocate()?, rating, ByPage)?,
                })
            }
            (
                options::Backend::Hyperv,
                Hosts {
                    hyperv: Ok(host), ..
                },
            ) => {
                let invariant = host.has_tsc_invariant();
                let rating =
                    rating.unwrap_or_else(|| options::default_rating(backend, mode, invariant));
                Ok(match mode {
                    options::Mode::Page => Self::HypervPage {
                        _clock: Parts::start(module, host.adopt_or_claim()?, rating, ByPage)?,
                    },
                    options::Mode::Msr => Self::HypervMsr {
                        _clock: Parts::start(module, host.counter_alone(), rating, ByCounter)?,
                    },
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
