// SPDX-License-Identifier: GPL-2.0

//! The files of the checkout: those that git has or would take.

use crate::exec;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Relative to `root`, sorted.
pub fn list(root: &Path) -> Result<Vec<PathBuf>> {
    let out = exec::command("git")
        .current_dir(root)
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output()
        .context("cannot run git: scripts/bootstrap installs it")?;
    let listed: Vec<PathBuf> = if out.status.success() {
        String::from_utf8_lossy(&out.stdout)
            .split('\0')
            .filter(|p| !p.is_empty())
            .map(PathBuf::from)
            .collect()
    } else {
        // An unpacked tarball is a checkout as well.
        walkdir::WalkDir::new(root)
            .into_iter()
            .filter_entry(|e| {
                !matches!(
                    e.file_name().to_str(),
                    Some("build" | "target" | ".git" | "__pycache__")
                )
            })
            .filter_map(|e| e.ok()?.path().strip_prefix(root).ok().map(Path::to_owned))
            .collect()
    };
    let mut files: Vec<PathBuf> = listed
        .into_iter()
        .filter(|p| root.join(p).is_file())
        .collect();
    files.sort();
    files.dedup();
    if files.is_empty() {
        bail!("no files in {}", root.display());
    }
    Ok(files)
}

/// The first lines of a file, as far as they are text.
pub fn head(path: &Path, lines: usize) -> Result<Vec<String>> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let part = &data[..data.len().min(4096)];
    Ok(String::from_utf8_lossy(part)
        .lines()
        .take(lines)
        .map(str::to_owned)
        .collect())
}

pub fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e == extension)
}
