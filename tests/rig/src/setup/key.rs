// SPDX-License-Identifier: GPL-2.0

//! Keys of what is cached: a hash of everything that the result depends on.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Collects named inputs. Names and lengths are hashed too, so that no two lists of
/// inputs run together into the same bytes.
#[derive(Default, Clone)]
pub struct Key(Sha256);

impl Key {
    pub fn new(kind: &str) -> Self {
        Self::default().with("kind", kind)
    }

    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            self.0.update((bytes.len() as u64).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// The first 16 hexadecimal digits: a directory's name.
    pub fn finish(self) -> String {
        hex(&self.0.finalize())[..16].to_owned()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn sha256_file(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file
            .read(&mut buffer)
            .with_context(|| format!("read {}", path.display()))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Stands for a tree's content without reading it: names, sizes and times of all files.
pub fn fingerprint_tree(root: &Path) -> Result<String> {
    let mut key = Key::new("tree");
    let walk = WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|e| e.file_name() != ".git");
    for entry in walk {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        let meta = entry.metadata().context("file's data")?;
        if meta.is_dir() {
            continue;
        }
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        let line = format!("{} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec());
        key = key.with(&relative.to_string_lossy(), line);
    }
    Ok(key.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_counts() {
        let base = || Key::new("kernel").with("a", "1").with("b", "2");
        assert_eq!(base().finish(), base().finish());
        assert_eq!(base().finish().len(), 16);
        assert_ne!(base().finish(), base().with("c", "").finish());
        assert_ne!(
            base().finish(),
            Key::new("qemu").with("a", "1").with("b", "2").finish()
        );
        assert_ne!(
            base().finish(),
            Key::new("kernel").with("b", "2").with("a", "1").finish()
        );
    }

    #[test]
    fn inputs_do_not_run_together() {
        let one = Key::new("k").with("ab", "c").finish();
        let two = Key::new("k").with("a", "bc").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn known_digest() -> Result<()> {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256_bytes(b"abc"), abc);
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("f"), "abc")?;
        assert_eq!(sha256_file(&dir.path().join("f"))?, abc);
        Ok(())
    }

    #[test]
    fn a_changed_tree_is_seen() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("d"))?;
        fs::write(dir.path().join("d/f"), "x")?;
        let one = fingerprint_tree(dir.path())?;
        assert_eq!(one, fingerprint_tree(dir.path())?);
        fs::write(dir.path().join("d/f"), "xy")?;
        assert_ne!(one, fingerprint_tree(dir.path())?);
        Ok(())
    }
}
