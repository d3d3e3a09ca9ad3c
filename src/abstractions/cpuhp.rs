// SPDX-License-Identifier: GPL-2.0

//! CPU hotplug states in the STARTING section.
//!
//! C header: `include/linux/cpuhotplug.h`

use kernel::{
    bindings,
    cpu::CpuId,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// A state of the STARTING section: its number and its name, which shows in sysfs.
pub(crate) struct State {
    number: bindings::cpuhp_state,
    name: &'static CStr,
}

impl State {
    /// Before anything on a starting CPU reads the clock.
    pub(crate) const PVCLOCK: Self = Self {
        number: bindings::cpuhp_state_CPUHP_AP_X86_PVCLOCK_STARTING,
        name: c"x86/pvclock:starting",
    };
}

/// What happens on a CPU that comes up or goes down.
///
/// Both run on the CPU in question with interrupts disabled, and cannot fail: in this section the
/// kernel has no way back.
pub(crate) trait Callbacks: Sync + 'static {
    /// The CPU comes up; also called for each CPU that is up when the callbacks are registered.
    fn starting(&self, cpu: CpuId);

    /// The CPU goes down; also called for each CPU that is up when the registration ends.
    fn dying(&self, cpu: CpuId);
}

/// Callbacks that are registered, until the value is dropped.
///
/// # Invariants
///
/// The state is set up with this type's trampolines, and `node` is an instance of it.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: Callbacks> {
    state: State,
    data: T,
    #[pin]
    node: Opaque<bindings::hlist_node>,
}

// SAFETY: Adding and removing an instance may be done by any task; `T` is dropped with it.
unsafe impl<T: Callbacks + Send> Send for Registration<T> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Callbacks> Sync for Registration<T> {}

impl<T: Callbacks> Registration<T> {
    /// Registers callbacks for a state, and calls [`Callbacks::starting`] on each CPU that is up.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// `EBUSY` where somebody else has the state.
    pub(crate) fn new(state: State, data: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            state,
            data,
            node <- Opaque::try_ffi_init(|node: *mut bindings::hlist_node| {
                let number = state.number;
                // The C side has one pair of function pointers for states with one instance and
                // with many; these are for many, and say so by the last argument.
                //
                // SAFETY: Two function pointers that differ in their parameters have the same
                // representation, and with multi_instance the C side calls them by their real
                // type, as cpuhp_setup_state_multi() has it. The name lives forever.
                to_result(unsafe {
                    bindings::__cpuhp_setup_state(
                        number,
                        state.name.as_char_ptr(),
                        false,
                        Some(core::mem::transmute::<
                            Multi,
                            unsafe extern "C" fn(c_uint) -> c_int,
                        >(Self::starting)),
                        Some(core::mem::transmute::<
                            Multi,
                            unsafe extern "C" fn(c_uint) -> c_int,
                        >(Self::dying)),
                        true,
                    )
                })?;
                // SAFETY: `node` is valid for a write; an unlinked node is all zeros.
                unsafe { node.write(pin_init::zeroed()) };
                // SAFETY: `node` is the field of a Registration whose `data`, the field before it,
                // is initialised, and that stays where it is, pinned, until it is removed by drop.
                let added = to_result(unsafe {
                    bindings::__cpuhp_state_add_instance(number, node, true)
                });
                if added.is_err() {
                    // SAFETY: The state was set up above and has no instance.
                    unsafe { bindings::__cpuhp_remove_state(number, false) };
                }
                added
            }),
        })
    }

    /// The data of the registration whose node is given.
    ///
    /// # Safety
    ///
    /// `node` has to be that of a live registration of this type.
    unsafe fn data<'a>(node: *mut bindings::hlist_node) -> &'a T {
        let node = Opaque::cast_from(node);
        // SAFETY: By the function's requirements, `node` lies in a registration, whose `data` was
        // initialised before the node was added.
        unsafe {
            let registration = kernel::container_of!(node, Self, node);
            &(*registration).data
        }
    }

    /// # Safety
    ///
    /// To be called by the hotplug core alone.
    unsafe extern "C" fn starting(cpu: c_uint, node: *mut bindings::hlist_node) -> c_int {
        // SAFETY: The hotplug core calls back with a node that was added, and a CPU that exists.
        unsafe { Self::data(node).starting(CpuId::from_u32_unchecked(cpu)) };
        0
    }

    /// # Safety
    ///
    /// To be called by the hotplug core alone.
    unsafe extern "C" fn dying(cpu: c_uint, node: *mut bindings::hlist_node) -> c_int {
        // SAFETY: The hotplug core calls back with a node that was added, and a CPU that exists.
        unsafe { Self::data(node).dying(CpuId::from_u32_unchecked(cpu)) };
        0
    }
}

/// A callback of a state that has many instances.
type Multi = unsafe extern "C" fn(c_uint, *mut bindings::hlist_node) -> c_int;

#[pinned_drop]
impl<T: Callbacks> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the node is an instance of the state, and the only one.
        // The core calls `dying` on each CPU and returns after the last of the callbacks has.
        unsafe {
            bindings::__cpuhp_state_remove_instance(self.state.number, self.node.get(), true);
            bindings::__cpuhp_remove_state(self.state.number, false);
        }
    }
}
