// SPDX-License-Identifier: GPL-2.0

//! Packages of Debian suites that this machine does not follow.
//!
//! The machine's own Debian entry is copied with its suites changed, into an apt
//! configuration of our own below the cache; apt checks the signatures as it always
//! does, and neither the machine's sources nor its lists or packages are touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::cache::{self, Cache};
use super::cmd;
use super::key::{sha256_bytes, sha256_file};
use crate::progress::Step;

/// Within one set-up the lists are fetched once.
const LISTS_FRESH: Duration = Duration::from_secs(15 * 60);

/// The parts of a source entry that go over to a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    uris: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// The other fields, as lines of the deb822 format (`Signed-By: ...`).
    others: Vec<String>,
}

impl Entry {
    /// Debian itself: not security, updates or backports, nor anybody else's archive.
    fn is_debian_release(&self) -> bool {
        const RELEASES: &[&str] = &[
            "bookworm",
            "trixie",
            "forky",
            "duke",
            "sid",
            "stable",
            "oldstable",
            "testing",
            "unstable",
        ];
        !self.uris.starts_with("cdrom:")
            && self.components.iter().any(|c| c == "main")
            && self.suites.iter().any(|s| RELEASES.contains(&s.as_str()))
    }

    /// The same archive with another suite, as a stanza of the deb822 format.
    fn with_suite(&self, types: &str, suite: &str) -> String {
        let mut text = format!(
            "Types: {types}\nURIs: {}\nSuites: {suite}\nComponents: main\nTargets: Packages Sources\n",
            self.uris
        );
        for line in &self.others {
            text += line;
            text.push('\n');
        }
        text
    }
}

/// The entries of a `.sources` file.
pub fn parse_deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for stanza in text
        .split_inclusive('\n')
        .collect::<Vec<_>>()
        .split(|l| l.trim().is_empty())
    {
        let mut fields: Vec<(String, String)> = Vec::new();
        for line in stanza {
            let line = line.trim_end();
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = fields.last_mut() {
                    value.push('\n');
                    value.push_str(line);
                }
            } else if let Some((name, value)) = line.split_once(':') {
                fields.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let get = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.as_str())
        };
        let words = |name: &str| -> Vec<String> {
            get(name).map_or_else(Vec::new, |v| {
                v.split_whitespace().map(str::to_owned).collect()
            })
        };
        let off = get("Enabled").is_some_and(|v| v.eq_ignore_ascii_case("no"));
        let binary = words("Types").iter().any(|t| t == "deb");
        let (Some(uris), false, true) = (get("URIs"), off, binary) else {
            continue;
        };
        const OURS: &[&str] = &[
            "Types",
            "URIs",
            "Suites",
            "Components",
            "Enabled",
            "Targets",
        ];
        entries.push(Entry {
            uris: uris.to_owned(),
            suites: words("Suites"),
            components: words("Components"),
            others: fields
                .iter()
                .filter(|(n, _)| !OURS.iter().any(|o| n.eq_ignore_ascii_case(o)))
                .map(|(n, v)| format!("{n}: {v}"))
                .collect(),
        });
    }
    entries
}

/// The entries of a `sources.list`.
pub fn parse_one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line
            .strip_prefix("deb")
            .filter(|r| r.starts_with([' ', '\t']))
        else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else {
            continue;
        };
        let others = options
            .split_whitespace()
            .filter_map(|o| o.split_once('='))
            .filter_map(|(name, value)| {
                let field = match name.to_ascii_lowercase().as_str() {
                    "signed-by" => "Signed-By",
                    "arch" => "Architectures",
                    "trusted" => "Trusted",
                    "check-valid-until" => "Check-Valid-Until",
                    "by-hash" => "By-Hash",
                    _ => return None,
                };
                Some(format!("{field}: {}", value.replace(',', " ")))
            })
            .collect();
        entries.push(Entry {
            uris: uri,
            suites: vec![suite],
            components: words.collect(),
            others,
        });
    }
    entries
}

/// The machine's own entry for Debian.
fn machine_entry(etc: &Path) -> Result<Entry> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(dir) = fs::read_dir(etc.join("sources.list.d")) {
        let mut parts: Vec<PathBuf> = dir.filter_map(|e| Some(e.ok()?.path())).collect();
        parts.sort();
        files.extend(parts);
    }
    for file in &files {
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        let entries = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => parse_deb822(&text),
            Some("list") => parse_one_line(&text),
            _ => continue,
        };
        if let Some(entry) = entries.into_iter().find(Entry::is_debian_release) {
            return Ok(entry);
        }
    }
    bail!(
        "no entry for Debian's main archive in {0}/sources.list or {0}/sources.list.d: the kernel and QEMU \
         come from Debian's packages, so give this machine one (or pass KSRC= for the kernel)",
        etc.display()
    )
}

/// A downloaded file and what apt's signatures vouched for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Download {
    pub name: String,
    pub version: String,
    pub file: String,
    pub size: u64,
    pub sha256: String,
}

/// What one request brought, kept beside the files.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub downloads: Vec<Download>,
}

impl Record {
    /// The record, if all that it names is still there.
    pub fn load(dir: &Path) -> Option<Self> {
        let record: Self = cache::read_json(&dir.join(cache::STAMP))?;
        record
            .downloads
            .iter()
            .all(|d| fs::metadata(dir.join(&d.file)).is_ok_and(|m| m.len() == d.size))
            .then_some(record)
    }

    /// One line for all of it, for keys.
    pub fn digest(&self) -> String {
        let mut lines: Vec<String> = self
            .downloads
            .iter()
            .map(|d| format!("{} {} {}\n", d.name, d.version, d.sha256))
            .collect();
        lines.sort();
        sha256_bytes(lines.concat().as_bytes())
    }

    /// Before what is kept is used again: is it still what apt had verified?
    pub fn verify(&self, dir: &Path) -> Result<()> {
        for d in &self.downloads {
            let path = dir.join(&d.file);
            if sha256_file(&path)? != d.sha256 {
                bail!(
                    "{} is damaged (its checksum differs from the one when apt verified it): remove it and run again",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

/// An apt of our own.
pub struct Apt {
    dir: PathBuf,
    log: PathBuf,
}

impl Apt {
    /// `suites` are pairs of the types (`deb`, `deb-src`) and the suite's name.
    pub fn prepare(cache: &Cache, log: &Path, name: &str, suites: &[(&str, &str)]) -> Result<Self> {
        if cmd::find_program("apt-get").is_none() {
            bail!(
                "apt-get is not installed: the kernel and QEMU come from Debian's packages, so this needs Debian"
            );
        }
        let dir = cache.path("apt").join(name);
        for sub in [
            "sources",
            "preferences",
            "state",
            "lists/partial",
            "cache",
            "archives/partial",
        ] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        let entry = machine_entry(Path::new("/etc/apt"))?;
        let sources: Vec<String> = suites
            .iter()
            .map(|(types, suite)| entry.with_suite(types, suite))
            .collect();
        cache::write_atomically(
            &dir.join("sources/debian.sources"),
            sources.join("\n").as_bytes(),
        )?;
        // Empty, so that dependencies are found whatever this machine has installed.
        cache::write_atomically(&dir.join("state/status"), b"")?;
        cache::write_atomically(&dir.join("apt.conf"), configuration(&dir).as_bytes())?;
        Ok(Self {
            dir,
            log: log.to_owned(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut c = cmd::command(program);
        c.arg("-c").arg(self.dir.join("apt.conf"));
        c
    }

    /// Fetches the lists, unless that was done a short while ago.
    pub fn update(&self, step: &mut Step) -> Result<()> {
        let sources =
            fs::read(self.dir.join("sources/debian.sources")).context("our apt sources")?;
        let mark = self.dir.join("updated");
        let fresh = fs::metadata(&mark)
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age < LISTS_FRESH));
        if fresh && fs::read(&mark).is_ok_and(|m| m == sources) {
            return Ok(());
        }
        let mut c = self.command("apt-get");
        c.arg("update");
        cmd::run(&mut c, &self.log, step, None).context(
            "Debian's package lists could not be fetched: is the network there, and the machine's own apt source right?",
        )?;
        cache::write_atomically(&mark, &sources)
    }

    /// The versions on offer, the newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let list = cmd::output(self.command("apt-cache").args(["madison", package]))?;
        Ok(list
            .lines()
            .filter_map(|l| l.split('|').nth(1))
            .map(|v| v.trim().to_owned())
            .collect())
    }

    /// `name=version` of the suite's package and of all that it depends on.
    pub fn closure(&self, package: &str, suite: &str) -> Result<Vec<String>> {
        let mut c = self.command("apt-get");
        c.args(["install", "--simulate", "--no-install-recommends"])
            .args(["--target-release", suite, package]);
        let simulated = cmd::output(&mut c)?;
        Ok(parse_simulation(&simulated))
    }

    /// Downloads `name=version` packages into `target`, with a record of them.
    pub fn download(&self, packages: &[String], target: &Path, step: &mut Step) -> Result<Record> {
        self.fetch(target, step, |c| {
            c.arg("download").args(packages);
        })
    }

    /// Downloads the files of a source package.
    pub fn download_source(&self, request: &str, target: &Path, step: &mut Step) -> Result<Record> {
        self.fetch(target, step, |c| {
            c.args(["source", "--download-only", "--only-source", request]);
        })
    }

    fn fetch(&self, target: &Path, step: &mut Step, ask: impl Fn(&mut Command)) -> Result<Record> {
        let parent = target.parent().unwrap_or(target);
        fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        let fresh = tempfile::Builder::new()
            .prefix("partial-")
            .tempdir_in(parent)
            .with_context(|| format!("create a directory in {}", parent.display()))?;
        let mut c = self.command("apt-get");
        ask(&mut c);
        c.current_dir(fresh.path());
        cmd::run(&mut c, &self.log, step, None)
            .context("packages could not be fetched: is the network there?")?;
        let mut downloads = Vec::new();
        for entry in fs::read_dir(fresh.path()).context("list the downloads")? {
            let path = entry.context("list the downloads")?.path();
            let file = path
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default();
            let mut parts = file.split('_');
            downloads.push(Download {
                name: parts.next().unwrap_or_default().to_owned(),
                version: parts.next().unwrap_or_default().replace("%3a", ":"),
                size: fs::metadata(&path).context("size of a download")?.len(),
                sha256: sha256_file(&path)?,
                file,
            });
        }
        if downloads.is_empty() {
            bail!("apt downloaded nothing; its log: {}", self.log.display());
        }
        downloads.sort_by(|a, b| a.file.cmp(&b.file));
        let record = Record { downloads };
        cache::write_json(&fresh.path().join(cache::STAMP), &record)?;
        cache::remove_tree(target)?;
        let fresh = fresh.keep();
        fs::rename(&fresh, target).with_context(|| format!("rename to {}", target.display()))?;
        Ok(record)
    }
}

/// Lines `Inst name (version suite [arch])` of a simulated installation.
fn parse_simulation(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| {
            let (name, rest) = l.strip_prefix("Inst ")?.split_once(' ')?;
            let version = rest.split_once('(')?.1.split_whitespace().next()?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

/// Read by apt after the machine's own configuration, of which proxies and the like stay.
fn configuration(dir: &Path) -> String {
    let at = |sub: &str| dir.join(sub).display().to_string();
    let mut text = format!(
        "Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{}\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"{}\";\n\
         Dir::State \"{}\";\n\
         Dir::State::lists \"{}\";\n\
         Dir::State::status \"{}\";\n\
         Dir::Cache \"{}\";\n\
         Dir::Cache::archives \"{}\";\n\
         Dir::Cache::pkgcache \"pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"srcpkgcache.bin\";\n",
        at("sources"),
        at("preferences"),
        at("state"),
        at("lists"),
        at("state/status"),
        at("cache"),
        at("archives"),
    );
    text += "Acquire::GzipIndexes \"true\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             APT::Update::Error-Mode \"any\";\n\
             APT::Get::AllowUnauthenticated \"false\";\n\
             APT::Install-Suggests \"false\";\n\
             #clear APT::Default-Release;\n\
             #clear APT::Update::Pre-Invoke;\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n";
    if nix::unistd::geteuid().is_root() {
        // The user _apt cannot reach a cache below root's home.
        text += "APT::Sandbox::User \"root\";\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
";

    #[test]
    fn deb822_is_rewritten() {
        let entries = parse_deb822(DEB822);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].is_debian_release());
        assert!(!entries[1].is_debian_release());
        assert_eq!(
            entries[0].with_suite("deb", "trixie-backports"),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie-backports\n\
             Components: main\nTargets: Packages Sources\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        );
        assert!(entries[1].with_suite("deb", "x").contains(" .\n abc\n"));
    }

    #[test]
    fn switched_off_and_source_entries_are_left_out() {
        let off =
            "Enabled: no\nTypes: deb\nURIs: http://a/debian\nSuites: trixie\nComponents: main\n";
        assert!(parse_deb822(off).is_empty());
        let source = "Types: deb-src\nURIs: http://a/debian\nSuites: trixie\nComponents: main\n";
        assert!(parse_deb822(source).is_empty());
        assert!(
            parse_one_line("deb-src http://a/debian trixie main\n# deb http://a b main\n")
                .is_empty()
        );
    }

    #[test]
    fn one_line_is_rewritten() {
        let text = "# old\n\
            deb http://mirror.example/debian-security bookworm-security main\n\
            deb [arch=amd64,i386 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib # x\n";
        let entries = parse_one_line(text);
        let entry = entries.iter().find(|e| e.is_debian_release());
        assert_eq!(
            entry
                .map(|e| e.with_suite("deb deb-src", "trixie"))
                .as_deref(),
            Some(
                "Types: deb deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\n\
                 Components: main\nTargets: Packages Sources\n\
                 Architectures: amd64 i386\nSigned-By: /usr/share/keyrings/k.gpg\n"
            )
        );
    }

    #[test]
    fn the_machine_entry_is_found_in_either_place() -> Result<()> {
        let etc = tempfile::tempdir()?;
        let missing = machine_entry(etc.path()).unwrap_err().to_string();
        assert!(missing.contains("no entry for Debian"), "{missing}");
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts)?;
        fs::write(
            parts.join("a.sources"),
            "Types: deb\nURIs: http://x/y\nSuites: nodistro\nComponents: main\n",
        )?;
        fs::write(parts.join("b.sources.disabled"), DEB822)?;
        assert!(machine_entry(etc.path()).is_err());
        fs::write(parts.join("debian.sources"), DEB822)?;
        assert_eq!(
            machine_entry(etc.path())?.uris,
            "http://mirror.example/debian"
        );
        fs::write(
            etc.path().join("sources.list"),
            "deb http://other.example/debian bookworm main\n",
        )?;
        assert_eq!(
            machine_entry(etc.path())?.uris,
            "http://other.example/debian"
        );
        Ok(())
    }

    #[test]
    fn simulations_are_read() {
        let text = "Reading package lists...\n\
            Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.11/oldstable [amd64])\n\
            Inst libc6 [2.35] (2.36-9 Debian [amd64]) []\n\
            Conf libc6 (2.36-9 Debian [amd64])\n";
        assert_eq!(
            parse_simulation(text),
            ["gcc-12-base=12.2.0-14+deb12u1", "libc6=2.36-9"]
        );
    }

    #[test]
    fn a_damaged_download_is_seen() -> Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("a.deb"), "abc")?;
        let record = Record {
            downloads: vec![Download {
                name: "a".into(),
                version: "1".into(),
                file: "a.deb".into(),
                size: 3,
                sha256: sha256_bytes(b"abc"),
            }],
        };
        cache::write_json(&dir.path().join(cache::STAMP), &record)?;
        let loaded = Record::load(dir.path()).context("record")?;
        loaded.verify(dir.path())?;
        fs::write(dir.path().join("a.deb"), "abd")?;
        assert!(loaded.verify(dir.path()).is_err());
        fs::write(dir.path().join("a.deb"), "ab")?;
        assert!(Record::load(dir.path()).is_none());
        Ok(())
    }
}
