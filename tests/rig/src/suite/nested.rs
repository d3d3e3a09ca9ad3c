// SPDX-License-Identifier: GPL-2.0

//! The guest as a host: on the test host a guest that has the driver runs a guest of its own, by the same kernel's
//! KVM, and is migrated.

use super::update;
use crate::context::Context;
use crate::report::Report;
use crate::vm::{Flavour, Task};
use anyhow::Result;
use std::time::Duration;

/// How many migrations the longest of the phases goes through; the others have a part of that.
const DEFAULT: u32 = 400;
/// What one of them takes, with its part of the other phases, on a machine that has other things to do.
const EACH: Duration = Duration::from_millis(600);
/// To boot a guest within the guest, and what else does not depend on the number.
const TEST: Duration = Duration::from_secs(240);

fn patience(migrations: u32) -> Duration {
    TEST + EACH * migrations
}

/// What the guest is told of it. What is wrong with the number is told by [`run`].
pub fn guest_words() -> Vec<String> {
    let migrations = update::asked_or(DEFAULT).unwrap_or(DEFAULT);
    update::words(migrations, patience(migrations))
}

pub fn run(cx: &Context, report: &mut Report) -> Result<()> {
    let flavours: Vec<Flavour> = Flavour::NESTED
        .iter()
        .copied()
        .filter(|f| cx.flavours.is_empty() || cx.flavours.contains(f))
        .collect();
    let migrations = update::asked_or(DEFAULT)?;
    update::migrate(
        cx,
        report,
        Task::Nested,
        &flavours,
        "nested",
        migrations,
        patience(migrations),
    )
}
