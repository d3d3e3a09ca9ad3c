// SPDX-License-Identifier: GPL-2.0

//! A read-only file in debugfs that holds its module while it is open.
//!
//! `kernel::debugfs` gives its files no owner: a module can be unloaded while one of them is open,
//! and debugfs then calls into operations that are gone when it is closed.
//!
//! C headers: `include/linux/debugfs.h`, `include/linux/seq_file.h`

use kernel::{
    bindings,
    fmt,
    module::ModuleMetadata,
    prelude::*,
    seq_file::SeqFile,
    types::Opaque, //
};

/// What a file says.
pub(crate) trait Show: Send + Sync + 'static {
    /// Writes the content of the file.
    ///
    /// Context: may sleep. Called once for every reading; again, with a larger buffer, where the
    /// content was too long.
    fn show(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// A directory with one file in it, until the value is dropped.
///
/// Debugfs may not be there; then there is no file, and nothing is wrong.
///
/// # Invariants
///
/// `directory` is what [`create`] returned.
#[pin_data(PinnedDrop)]
pub(crate) struct File<T: Show, M: ModuleMetadata> {
    data: T,
    #[pin]
    directory: Opaque<*mut bindings::dentry>,
    _module: core::marker::PhantomData<fn() -> M>,
}

// SAFETY: Debugfs may be called by any task; `T` is Send.
unsafe impl<T: Show, M: ModuleMetadata> Send for File<T, M> {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl<T: Show, M: ModuleMetadata> Sync for File<T, M> {}

impl<T: Show, M: ModuleMetadata> File<T, M> {
    /// The operations. With the owner, an open file keeps the module, and so this table.
    const OPERATIONS: &'static bindings::file_operations = &bindings::file_operations {
        owner: M::THIS_MODULE.as_ptr(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// Creates the directory at debugfs' root and the file in it.
    ///
    /// Context: may sleep.
    pub(crate) fn new(
        directory: &'static CStr,
        name: &'static CStr,
        data: T,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            data,
            directory <- Opaque::ffi_init(|slot: *mut *mut bindings::dentry| {
                // SAFETY: `data`, the field before this one, is initialised, and stays where it
                // is, pinned, until drop has removed the file. `slot` is valid for a write.
                unsafe {
                    let data = (&raw mut (*this.as_ptr()).data).cast();
                    slot.write(create(directory, name, data, Self::OPERATIONS));
                }
            }),
            _module: core::marker::PhantomData,
        })
    }

    /// # Safety
    ///
    /// To be called by debugfs alone.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Debugfs calls with the inode of the file, whose private data is `data`.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// To be called by the seq_file of an open file alone.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The private data is that which open() passed on, the `data` of a registration
        // that lives: debugfs lets no reading begin once the file is being removed, and the
        // removal waits for those that have begun. The seq_file calls with its lock held, so
        // nobody else uses its buffer.
        let (data, seq) = unsafe { (&*(*seq).private.cast::<T>(), SeqFile::from_raw(seq)) };
        seq.call_printf(fmt!("{}", Shown(data)));
        0
    }
}

/// Creates a directory and a file in it, as far as debugfs can, and returns the directory.
///
/// # Safety
///
/// `data` has to be what the operations take for the file's private data, until the directory was
/// removed. They are static, and their owner is the module that they are part of: an open file
/// holds it.
#[cfg(CONFIG_DEBUG_FS)]
unsafe fn create(
    directory: &'static CStr,
    name: &'static CStr,
    data: *mut c_void,
    operations: &'static bindings::file_operations,
) -> *mut bindings::dentry {
    // SAFETY: The names are C strings; both functions take error pointers for what debugfs could
    // not do; the rest by the function's requirements.
    unsafe {
        let parent = bindings::debugfs_create_dir(directory.as_char_ptr(), core::ptr::null_mut());
        bindings::debugfs_create_file_full(
            name.as_char_ptr(),
            0o444,
            parent,
            data,
            core::ptr::null(),
            operations,
        );
        parent
    }
}

/// Without debugfs there is nothing to create.
///
/// # Safety
///
/// None.
#[cfg(not(CONFIG_DEBUG_FS))]
unsafe fn create(
    _directory: &'static CStr,
    _name: &'static CStr,
    _data: *mut c_void,
    _operations: &'static bindings::file_operations,
) -> *mut bindings::dentry {
    core::ptr::null_mut()
}

/// Lends [`Show`] to the formatting macros.
struct Shown<'a, T>(&'a T);

impl<T: Show> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.show(f)
    }
}

#[pinned_drop]
impl<T: Show, M: ModuleMetadata> PinnedDrop for File<T, M> {
    fn drop(self: Pin<&mut Self>) {
        #[cfg(CONFIG_DEBUG_FS)]
        // SAFETY: By the type invariant; the function passes over error pointers, removes the file
        // with the directory, and returns after the last reading has ended.
        unsafe {
            bindings::debugfs_remove(*self.directory.get());
        }
    }
}
