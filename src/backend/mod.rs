// SPDX-License-Identifier: GPL-2.0

//! The hosts' clocks.

pub(crate) mod kvm;
