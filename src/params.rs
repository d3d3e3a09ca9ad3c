// SPDX-License-Identifier: GPL-2.0

//! Module parameters that are words.
//!
//! Declared in the `module!` of the crate's root; the words stand in [`crate::logic::options`].

pub(crate) use crate::logic::options::{
    BackendOption,
    ModeOption,
    ReliableOption, //
};

use kernel::{
    module_param::ModuleParam,
    prelude::*,
    str::BStr, //
};

macro_rules! impl_word_param {
    ($($type:ident),* $(,)?) => {
        $(impl ModuleParam for $type {
            fn try_from_param_arg(arg: &BStr) -> Result<Self> {
                Self::from_name(arg).ok_or(EINVAL)
            }

            fn fmt_param(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
                f.write_str(self.name())
            }
        })*
    };
}

impl_word_param!(BackendOption, ModeOption, ReliableOption);
