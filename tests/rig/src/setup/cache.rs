// SPDX-License-Identifier: GPL-2.0

//! The cache: where it is, who may write to it, what in it is complete.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Written last, so that its presence says that all beside it is complete.
pub const STAMP: &str = "stamp";

#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$PARACLOCK_CACHE`, else `$XDG_CACHE_HOME/paraclock`, else `~/.cache/paraclock`.
    pub fn open() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let root = if let Some(dir) = set("PARACLOCK_CACHE") {
            PathBuf::from(dir)
        } else if let Some(dir) = set("XDG_CACHE_HOME") {
            PathBuf::from(dir).join("paraclock")
        } else if let Some(home) = set("HOME") {
            PathBuf::from(home).join(".cache/paraclock")
        } else {
            bail!("no place for the cache: HOME is not set; set PARACLOCK_CACHE to a directory");
        };
        fs::create_dir_all(&root).with_context(|| {
            format!(
                "cannot create the cache {}; set PARACLOCK_CACHE to a directory that can be written",
                root.display()
            )
        })?;
        let root = root
            .canonicalize()
            .with_context(|| format!("resolve {}", root.display()))?;
        // Kbuild cannot be told about a space in a path.
        if root.to_string_lossy().contains([' ', ':', '"']) {
            bail!(
                "the kernel cannot be built below {}: a space, colon or quote is in the path; set PARACLOCK_CACHE",
                root.display()
            );
        }
        Ok(Self { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.join(relative)
    }

    /// Keeps other runs out while this one writes; says so where it has to wait.
    pub fn lock(&self) -> Result<Flock<File>> {
        let path = self.path("lock");
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .with_context(|| format!("open {}", path.display()))
        };
        let locked = match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err(_) => {
                let holder = fs::read_to_string(&path).unwrap_or_default();
                eprintln!(
                    "==> waiting for another set-up ({}) to leave the cache {}",
                    holder.trim(),
                    self.root.display()
                );
                Flock::lock(open()?, FlockArg::LockExclusive)
                    .map_err(|(_, e)| anyhow!(e))
                    .with_context(|| format!("lock {}", path.display()))?
            }
        };
        fs::write(&path, format!("process {}\n", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(locked)
    }

    /// Refuses early what would fail an hour later.
    pub fn require_space(&self, needed_mib: u64, what: &str) -> Result<()> {
        let stat = nix::sys::statvfs::statvfs(&self.root).context("free space of the cache")?;
        let free_mib = stat.blocks_available() * stat.fragment_size() / (1 << 20);
        if free_mib < needed_mib {
            bail!(
                "{what} needs about {needed_mib} MiB below {}, and {free_mib} MiB are free: make room, \
                 or set PARACLOCK_CACHE to a directory on another file system",
                self.root.display()
            );
        }
        Ok(())
    }

    /// Removes the directories of `kind` that were used longest ago, but for `keep`;
    /// unfinished ones first.
    pub fn expire(&self, kind: &str, keep: usize, current: &str) -> Result<()> {
        let Ok(entries) = fs::read_dir(self.path(kind)) else {
            return Ok(());
        };
        let mut found: Vec<(bool, SystemTime, PathBuf)> = entries
            .filter_map(|e| {
                let path = e.ok()?.path();
                let name = path.file_name().and_then(OsStr::to_str)?;
                (path.is_dir() && name != current && name.len() == 16).then(|| {
                    let used = [path.join(STAMP), path.clone()]
                        .iter()
                        .find_map(|p| fs::metadata(p).ok()?.modified().ok())
                        .unwrap_or(SystemTime::UNIX_EPOCH);
                    (path.join(STAMP).is_file(), used, path)
                })
            })
            .collect();
        found.sort();
        let surplus = (found.len() + 1).saturating_sub(keep);
        for (_, _, path) in found.into_iter().take(surplus) {
            // Without the stamp a half-removed directory is seen as incomplete.
            let _ = fs::remove_file(path.join(STAMP));
            fs::remove_dir_all(&path)
                .with_context(|| format!("remove the old {}", path.display()))?;
        }
        Ok(())
    }
}

/// Writes the whole file or nothing.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let dir = path
        .parent()
        .with_context(|| format!("{} has no parent", path.display()))?;
    let write = || -> Result<()> {
        fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        std::io::Write::write_all(&mut file, content)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("write {}", path.display()))
}

pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).context("encode")?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// `None` where there is no such file, or what is in it was written by another version.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Notes that the stamped directory is in use, for [`Cache::expire`].
pub fn touch(stamp: &Path) {
    if let Ok(file) = OpenOptions::new().append(true).open(stamp) {
        // Only the order of expiry depends on it.
        let _ = file.set_modified(SystemTime::now());
    }
}

pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_oldest_goes_and_the_current_stays() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache {
            root: dir.path().to_owned(),
        };
        let names = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"];
        for (age, name) in (1..).zip(names) {
            write_atomically(&cache.path("kernel").join(name).join(STAMP), b"{}")?;
            File::options()
                .append(true)
                .open(cache.path("kernel").join(name).join(STAMP))?
                .set_modified(SystemTime::now() - Duration::from_secs(100 * age))?;
        }
        let unfinished = cache.path("kernel").join("dddddddddddddddd");
        fs::create_dir(&unfinished)?;
        cache.expire("kernel", 3, names[2])?;
        assert!(!unfinished.exists());
        assert!(cache.path("kernel").join(names[1]).exists());
        cache.expire("kernel", 2, names[2])?;
        assert!(cache.path("kernel").join(names[0]).exists());
        assert!(!cache.path("kernel").join(names[1]).exists());
        assert!(cache.path("kernel").join(names[2]).exists());
        Ok(())
    }

    #[test]
    fn space_is_checked() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let cache = Cache {
            root: dir.path().to_owned(),
        };
        cache.require_space(0, "nothing")?;
        let error = cache.require_space(u64::MAX, "the kernel").unwrap_err();
        assert!(error.to_string().contains("the kernel needs about"));
        Ok(())
    }
}
