// SPDX-License-Identifier: GPL-2.0

//! Versions of tools and of kernels, as far as they have to be compared.

use std::fmt;

/// `major.minor.patch`; what follows (`-nightly`, `-rc1`) is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first thing in `text` that looks like a version: `rustc 1.95.0 (59807616e ...)`.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.split('.').map(str::parse::<u32>);
        let major = parts.next()?.ok()?;
        let minor = parts.next()?.ok()?;
        let patch = match parts.next() {
            Some(p) => p.ok()?,
            None => 0,
        };
        Some(Self(major, minor, patch))
    }

    /// From the text of a kernel's top Makefile.
    pub fn of_kernel_makefile(makefile: &str) -> Option<Self> {
        let field = |name: &str| {
            makefile.lines().take(20).find_map(|l| {
                let value = l.strip_prefix(name)?.trim_start().strip_prefix('=')?;
                value.trim().parse::<u32>().ok()
            })
        };
        Some(Self(
            field("VERSION")?,
            field("PATCHLEVEL")?,
            field("SUBLEVEL")?,
        ))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_in_what_tools_print() {
        let v = Version::find;
        assert_eq!(
            v("rustc 1.95.0 (59807616e 2026-04-14)"),
            Some(Version(1, 95, 0))
        );
        assert_eq!(v("bindgen 0.73.2"), Some(Version(0, 73, 2)));
        assert_eq!(
            v("Debian clang version 19.1.7 (3~deb12u1)"),
            Some(Version(19, 1, 7))
        );
        assert_eq!(v("Python 3.11.2"), Some(Version(3, 11, 2)));
        assert_eq!(v("1:10.0.13+ds-0+deb13u1"), Some(Version(10, 0, 13)));
        assert_eq!(v("rustc 1.96.0-nightly"), Some(Version(1, 96, 0)));
        assert_eq!(v("cargo"), None);
        assert_eq!(v("version 7"), None);
    }

    #[test]
    fn ordered_by_number() {
        assert!(Version(1, 100, 0) > Version(1, 95, 9));
        assert!(Version(0, 71, 0) < Version(0, 71, 1));
        assert!(Version(2, 0, 0) > Version(1, 85, 0));
    }

    #[test]
    fn kernel_makefile() {
        let text = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\n";
        assert_eq!(Version::of_kernel_makefile(text), Some(Version(7, 3, 4)));
        assert_eq!(Version::of_kernel_makefile("all:\n"), None);
    }
}
