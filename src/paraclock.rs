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
use clock::Clock;
use kernel::{
    module::InPlaceModule,
    prelude::*,
    sync::Arc, //
};
use logic::options;
use status::Status;

module! {
    type: Paraclock,
    name: "paraclock",
    authors: ["The paraclock developers"],
    description: "Paravirtual clock of KVM guests",
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
            description: "Rating of the clocksource, 1 to 499; 0: 50 above the C clock's",
            perm: 0o444,
        },
    },
}

/// The module.
///
/// The fields are dropped in this order: first nobody can ask any more, then nobody can read, then
/// the host stops writing, at the end the memory goes.
#[pin_data]
struct Paraclock {
    #[pin]
    _status: debugfs::File<Status, Self>,
    #[pin]
    _clocksource: clocksource::Registration<Arc<Clock>>,
    vdso: clocksource::VdsoClockMode,
    #[pin]
    _shutdown: shutdown::Registration<Arc<Clock>>,
    #[pin]
    _cpuhp: cpuhp::Registration<Arc<Clock>>,
}

/// Reads the parameter `rating`.
fn rating() -> Result<i32> {
    let rating = *module_parameters::rating.value_ref();
    if rating == 0 {
        return Ok(options::kvm_clock_rating(tsc::is_invariant()) + options::RATING_STEP);
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
    Ok(rating)
}

/// Reads the parameters `backend` and `mode`.
fn backend_and_mode() -> Result<(options::Backend, options::Mode)> {
    options::resolve(
        *module_parameters::backend.value_ref(),
        *module_parameters::mode.value_ref(),
    )
    .map_err(|unsupported| {
        match unsupported {
            options::Unsupported::Backend(backend) => {
                pr_err!(
                    "backend={}: not supported, use auto or kvm\n",
                    backend.name()
                );
            }
            options::Unsupported::Mode(backend, mode) => {
                pr_err!(
                    "mode={}: not supported by backend {}, use auto or page\n",
                    mode.name(),
                    backend.name()
                );
            }
        }
        EINVAL
    })
}

impl InPlaceModule for Paraclock {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let (backend, mode) = backend_and_mode()?;
            let rating = rating()?;
            let host = backend::kvm::Host::find()?;
            let clock = Arc::new(Clock::new(&host, backend, mode, rating)?, GFP_KERNEL)?;
            let (of_cpuhp, of_shutdown, of_clocksource, of_status) =
                (clock.clone(), clock.clone(), clock.clone(), clock.clone());
            Ok(try_pin_init!(Self {
                // Registers the pages on all CPUs.
                _cpuhp <- cpuhp::Registration::new(cpuhp::State::PVCLOCK, of_cpuhp),
                _shutdown <- shutdown::Registration::new(of_shutdown),
                vdso: clock.check()?,
                _clocksource <- clocksource::Registration::new(
                    module,
                    clock.config(*vdso),
                    of_clocksource,
                ),
                _status <- debugfs::File::new(
                    c"paraclock",
                    c"status",
                    Status { clock: of_status, vdso: *vdso },
                ),
                _: {
                    pr_info!(
                        "clocksource paraclock: backend {}, mode {}, pages {}, vDSO {}, rating {}\n",
                        clock.backend.name(),
                        clock.mode.name(),
                        clock.pages.owner(),
                        vdso.name(),
                        clock.rating
                    );
                },
            }? Error))
        })
    }
}
