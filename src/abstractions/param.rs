// SPDX-License-Identifier: GPL-2.0

//! A module parameter that is a word, and that can be changed while the module runs.
//!
//! The parameters of `module!` are settled when the module is loaded. This one tells a [`Handler`]
//! what is written to its file in sysfs; what the handler does not take is not taken.
//!
//! C header: `include/linux/moduleparam.h`

use crate::bindings;
use core::{
    cell::UnsafeCell,
    marker::{
        PhantomData,
        PhantomPinned, //
    }, //
};
use kernel::{
    error::from_result,
    module_param::ModuleParam,
    prelude::*,
    str::BStr, //
};

/// Takes what is written.
pub(crate) trait Handler<T>: Send + Sync + 'static {
    /// A value was written.
    ///
    /// Context: may sleep, in the task that writes, with the lock of the module's parameters held.
    ///
    /// # Errors
    ///
    /// Are what the writer gets; the parameter then keeps its value.
    fn set(&self, value: T) -> Result;
}

/// A parameter: a static of the module, by [`writable_param!`].
///
/// # Invariants
///
/// Both cells are accessed with the lock of the module's parameters held.
pub(crate) struct Parameter<T: ModuleParam> {
    value: UnsafeCell<T>,
    handler: UnsafeCell<Option<Call<T>>>,
}

/// A registered handler, without its type.
struct Call<T> {
    data: *const (),
    set: unsafe fn(*const (), T) -> Result,
}

// SAFETY: By the type invariant accesses are serialised; the handler is Send and Sync.
unsafe impl<T: ModuleParam + Send> Sync for Parameter<T> {}

/// The lock of the module's parameters, taken.
struct Locked(PhantomData<*mut ()>);

impl Locked {
    fn new() -> Self {
        // SAFETY: Sleeping is allowed where this is called; drop releases the lock.
        unsafe { bindings::paraclock_param_lock() };
        Self(PhantomData)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: It was taken by new(), in the same task as the type is not Send.
        unsafe { bindings::paraclock_param_unlock() };
    }
}

impl<T: ModuleParam> Parameter<T> {
    /// The operations, for [`writable_param!`].
    pub(crate) const OPERATIONS: &'static kernel::bindings::kernel_param_ops =
        &kernel::bindings::kernel_param_ops {
            flags: 0,
            set: Some(Self::set),
            get: Some(Self::get),
            free: None,
        };

    /// Makes the parameter, with its default.
    pub(crate) const fn new(value: T) -> Self {
        Self {
            value: UnsafeCell::new(value),
            handler: UnsafeCell::new(None),
        }
    }

    /// The value.
    ///
    /// Context: may sleep, not in a handler.
    pub(crate) fn value(&self) -> T {
        let _locked = Locked::new();
        // SAFETY: The lock is held.
        unsafe { *self.value.get() }
    }

    /// # Safety
    ///
    /// To be called by the core alone, with the lock held, for a parameter of
    /// [`writable_param!`].
    unsafe extern "C" fn set(
        value: *const c_char,
        param: *const kernel::bindings::kernel_param,
    ) -> c_int {
        if value.is_null() {
            return EINVAL.to_errno();
        }
        // SAFETY: The core passes a C string, and the argument is a static of this type.
        let (value, this) = unsafe {
            (
                CStr::from_char_ptr(value),
                &*(*param).__bindgen_anon_1.arg.cast::<Self>(),
            )
        };
        from_result(|| {
            let value = T::try_from_param_arg(BStr::from_bytes(value.to_bytes()))?;
            // SAFETY: The lock is held. What is registered lives until it is taken out under the
            // lock, and the function is the one for its type.
            unsafe {
                if let Some(call) = &*this.handler.get() {
                    (call.set)(call.data, value)?;
                }
                *this.value.get() = value;
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// As [`Parameter::set`]; `buffer` has to be a page.
    unsafe extern "C" fn get(
        buffer: *mut c_char,
        param: *const kernel::bindings::kernel_param,
    ) -> c_int {
        // SAFETY: The argument is a static of this type, and the lock is held.
        let value = unsafe { *(*(*param).__bindgen_anon_1.arg.cast::<Self>()).value.get() };
        // SAFETY: By the function's requirements.
        let buffer = unsafe {
            core::slice::from_raw_parts_mut(buffer.cast::<u8>(), kernel::page::PAGE_SIZE)
        };
        let mut formatter = kernel::str::Formatter::new(buffer);
        from_result(|| {
            use kernel::fmt::Write;
            formatter
                .write_fmt(kernel::prelude::fmt!("{}\n", Shown(value)))
                .map_err(|_| ENOSPC)?;
            Ok(formatter.bytes_written() as c_int)
        })
    }
}

/// Lends [`ModuleParam::fmt_param`] to the formatting macros.
struct Shown<T>(T);

impl<T: ModuleParam> kernel::fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        self.0.fmt_param(f)
    }
}

/// A handler that is registered with a parameter, until the value is dropped.
///
/// # Invariants
///
/// The parameter's handler is this one, where there is one.
#[pin_data(PinnedDrop)]
pub(crate) struct Registration<T: ModuleParam + Send + 'static, H: Handler<T>> {
    parameter: &'static Parameter<T>,
    handler: H,
    // The parameter has a pointer to the handler.
    #[pin]
    _pin: PhantomPinned,
}

impl<T: ModuleParam + Send + 'static, H: Handler<T>> Registration<T, H> {
    /// Registers a handler, which is given the parameter's value first: it may have been written
    /// since the module looked at it.
    ///
    /// Context: may sleep.
    ///
    /// # Errors
    ///
    /// Those of the handler; then it is not registered.
    pub(crate) fn new(parameter: &'static Parameter<T>, handler: H) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            parameter,
            handler,
            _pin: PhantomPinned,
            _: {
                let _locked = Locked::new();
                // SAFETY: `handler` is initialised and stays where it is, pinned, until drop has
                // taken it out. The lock is held.
                unsafe {
                    let data = &raw const (*this.as_ptr()).handler;
                    (*data).set(*parameter.value.get())?;
                    *parameter.handler.get() = Some(Call {
                        data: data.cast(),
                        set: Self::set,
                    });
                }
            },
        }? Error)
    }

    /// # Safety
    ///
    /// `data` has to point to a live `H`.
    unsafe fn set(data: *const (), value: T) -> Result {
        // SAFETY: By the function's requirements.
        unsafe { &*data.cast::<H>() }.set(value)
    }
}

#[pinned_drop]
impl<T: ModuleParam + Send + 'static, H: Handler<T>> PinnedDrop for Registration<T, H> {
    fn drop(self: Pin<&mut Self>) {
        let _locked = Locked::new();
        // SAFETY: The lock is held, so no call is under way, and none begins.
        unsafe { *self.parameter.handler.get() = None };
    }
}

/// Declares a parameter of the module, a static of type [`Parameter`], by the names that `modinfo`
/// and sysfs show.
///
/// Everybody may read it, root may write it. For the crate's root, as `module!`.
#[allow(unused_macros)]
macro_rules! writable_param {
    ($static:ident: $type:ty = $default:expr, $name:literal, $description:literal) => {
        pub(crate) static $static: $crate::abstractions::param::Parameter<$type> =
            $crate::abstractions::param::Parameter::new($default);

        const _: () = {
            const NAME: &::core::ffi::CStr =
                match ::core::ffi::CStr::from_bytes_with_nul(concat!($name, "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("the name has a NUL in it"),
                };

            #[link_section = "__param"]
            #[used(compiler)]
            static PARAM: ::kernel::module_param::KernelParam =
                ::kernel::module_param::KernelParam::new(::kernel::bindings::kernel_param {
                    name: ::kernel::str::as_char_ptr_in_const_context(NAME),
                    mod_: (&raw const ::kernel::bindings::__this_module).cast_mut(),
                    ops: $crate::abstractions::param::Parameter::<$type>::OPERATIONS,
                    perm: 0o644,
                    level: -1,
                    flags: 0,
                    __bindgen_anon_1: ::kernel::bindings::kernel_param__bindgen_ty_1 {
                        arg: ::core::ptr::from_ref(&$static).cast_mut().cast(),
                    },
                });

            const TYPE: &str = concat!("parmtype=", $name, ":charp\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TYPE_INFO: [u8; TYPE.len()] = $crate::abstractions::param::bytes(TYPE);

            const TEXT: &str = concat!("parm=", $name, ":", $description, "\0");
            #[link_section = ".modinfo"]
            #[used(compiler)]
            static TEXT_INFO: [u8; TEXT.len()] = $crate::abstractions::param::bytes(TEXT);
        };
    };
}
#[allow(unused_imports)]
pub(crate) use writable_param;

/// The bytes of a text of that length, for [`writable_param!`].
pub(crate) const fn bytes<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut at = 0;
    while at < LENGTH {
        bytes[at] = text.as_bytes()[at];
        at += 1;
    }
    bytes
}
